"""Pipeline: the live node: its threads, the loop from frame to message, its health and its control
commands."""
