"""Report: one HTML page about a recording."""
