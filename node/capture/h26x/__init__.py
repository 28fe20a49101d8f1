"""Live streams of H.264 and H.265."""
