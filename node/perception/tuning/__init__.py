"""Tuning: measures the runtimes of a model on this computer and stores the fastest accurate one."""
