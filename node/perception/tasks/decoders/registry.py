"""Registry: all decoders by name. Each module of this package that has `DECODERS` adds its own."""

import importlib
import pkgutil
from pathlib import Path

from node.perception.tasks.decoders.base import BoxDecoder


def _found() -> dict[str, BoxDecoder]:
    package = __name__.rpartition(".")[0]
    decoders: dict[str, BoxDecoder] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name == "registry":
            continue
        for decoder in getattr(importlib.import_module(f"{package}.{module.name}"), "DECODERS", ()):
            decoders[decoder.name] = decoder
    return decoders


DECODERS = _found()
"""All decoders by the name in model cards, in the order of their files."""
