"""Support: what several tests use."""
