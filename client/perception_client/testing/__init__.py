"""Testing: control code against recordings, in virtual time; the pytest plugin is beside it."""

from perception_client.testing.recorded import RecordedLabels

__all__ = ["RecordedLabels"]
