"""Preprocess: resize, crop, pad and normalisation, on the CPU and the GPU."""
