"""Imports ONNX Runtime without its telemetry, which is on by default from 1.32 on: an identifier
of this computer and a database of events in the cache of the user, and a warning in a form of its
own where that cache is not writable."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, by the import

import onnxruntime as ort

__all__ = ["ort"]
