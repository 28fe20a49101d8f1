"""Recording: what a node saw and said, in MCAP files: written, mended and read."""
