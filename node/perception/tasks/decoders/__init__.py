"""Decoders of detectors: turn a network's outputs into boxes. A new decoder is one new file here:
`registry` finds it by itself."""
