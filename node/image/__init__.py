"""Image: one frame in memory, JPEG in and out, and the limits on what is decoded."""
