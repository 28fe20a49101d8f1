"""The campaigns of `scripts/recordings.py`, one a file."""
