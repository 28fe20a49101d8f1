"""Temporal: what is made of the predictions of successive frames: smoothing, tracks, events."""
