"""Exported programs (.pt2) as networks, read without running anything that a file holds.

torch.export.load evaluates the sizes and resolves the functions that a file names, writes Python of
its names, unpickles what it does not know otherwise, and loads compiled libraries. Here torch gets
an archive that was made anew of what was checked: a graph of known operators, and plain tensors.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from node.errors import ModelError
from node.perception.models.program_archive import checked_archive
from node.perception.models.program_parts import Refused

_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""torch.load's own switch: nothing but tensors, whatever the caller asks for. Nothing pickled is
left to load; should a later torch look elsewhere, it finds this."""
_NONE = (
    "cannot be read as a torch exported program of plain tensors; write it with torch.export.save "
    "of this torch version"
)
_lock = threading.Lock()


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """Both are everybody's, so they are set for the moment only. torch logs a stack trace of what
    it cannot load, where one line is said here."""
    logger = logging.getLogger("torch.export")
    before, level = os.environ.get(_FORCE), logger.level
    os.environ[_FORCE] = "1"
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        if before is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = before


class ExportedProgram(nn.Module):
    """It is for inference already, whatever it is told.

    Raises ModelError for a file that is none, or that holds more than a graph and tensors.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        try:
            archive = checked_archive(file)
        except Refused as refused:
            raise ModelError(
                f"{file}: {refused}, and is not loaded, since such a file could run code; export "
                "the network without custom objects and operators, or to ONNX"
            ) from None
        except Exception as error:  # zipfile and json raise many kinds for what is none
            raise ModelError(f"{file} {_NONE}") from error
        try:
            with _lock, _tensors_only():
                self.program = torch.export.load(archive).module()
        except Exception as error:  # torch.export.load has no exception of its own
            raise ModelError(f"{file} {_NONE}") from error

    def train(self, mode: bool = True) -> "ExportedProgram":
        """Changes nothing."""
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """As the program."""
        outputs: torch.Tensor | tuple[torch.Tensor, ...] = self.program(x)
        return outputs
