"""Speed and memory of annotation, training, evaluation and drawing on this machine."""
