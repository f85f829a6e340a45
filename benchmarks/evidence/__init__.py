"""The study behind docs/evidence.md: what the parts of the method are worth, trial by trial."""
