"""The key of an export: all that it depends on."""

import hashlib

from node import __version__
from node.perception.models.model import Model

OPSET = 17
"""ONNX operator set: the newest that torch's TorchScript exporter fully supports."""
_RECIPE = 6
"""Version of the export; raise it with each change, so that cached graphs of older versions are not
used."""


def export_key(model: Model) -> str:
    """Returns a digest of all that an export depends on (weights, preprocessing, versions), 16
    hexadecimal digits. The version of torch is no part of it: each export is compared with its
    network, and a computer without torch uses the export of another."""
    versions = (__version__, str(OPSET), str(_RECIPE))
    parts = (model.digest, repr(model.preprocess), *versions)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
