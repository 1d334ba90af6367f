"""Checkpoint files: read without torch, written whole."""
