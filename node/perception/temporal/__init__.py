"""Temporal: state across the frames of a camera: smoothing, tracking and events."""
