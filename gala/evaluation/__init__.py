"""Trained policies at play: loaded, scored, filmed."""
