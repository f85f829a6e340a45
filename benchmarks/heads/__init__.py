"""The study of mask heads on real crowds: which part of the published head costs AP, trial by trial."""
