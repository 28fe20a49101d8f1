"""Monitor: what the node knows of its own health."""
