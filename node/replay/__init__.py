"""Replay: passes recorded video and pictures through the same pipeline without dropping a frame,
and compares the messages with a golden file."""
