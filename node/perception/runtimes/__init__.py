"""Runtimes: one file for each engine that runs a network, and the choice of the engine."""
