"""Image: a frame in memory, JPEG decoding and encoding, and limits on decoded sizes."""
