"""Preprocess: resizing, cropping, padding and normalisation, on the CPU and the GPU."""
