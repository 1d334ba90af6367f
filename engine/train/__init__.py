"""Training: a run directory in, trained files and events out."""
