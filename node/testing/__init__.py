"""Testing: control code against recordings, in virtual time; the pytest plugin is beside it."""

from node.testing.recorded import RecordedLabels

__all__ = ["RecordedLabels"]
