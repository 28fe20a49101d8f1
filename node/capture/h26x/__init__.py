"""H.264 and H.265 as packets: what may be passed over undecoded, and the decoder."""
