"""Weight files: checkpoints, loading, foreign names, import, conversion and export."""
