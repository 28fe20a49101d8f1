"""Replay: recorded video and pictures through the same pipeline, without losing a frame, and the
comparison with a golden file."""
