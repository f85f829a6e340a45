"""The study of starts: published weights against training from scratch, on real photos."""
