"""Capture: turns cameras, streams, videos and image files into frames, and keeps the newest frame
of each camera ready for inference."""
