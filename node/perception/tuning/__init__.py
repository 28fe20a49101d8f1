"""Tuning: measures the runtimes of a model on this computer and keeps the fastest that is right."""
