"""H.264 and H.265: parsing of coded pictures, and the decoder that rejects damage."""
