"""Perception: from a frame's pixels to labels. Models, weights, preprocessing, runtimes."""
