"""The two soaks of `scripts/soak.py`: the way of a frame, and a whole node with faults."""
