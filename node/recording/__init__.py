"""Recording: writes, reads and recovers MCAP files of a node's frames and messages."""
