"""Capture: cameras, streams, videos and pictures become frames, and the newest frame waits."""
