"""Diagnostics: doctor, benchmark, latency, and the configuration that fits this computer."""
