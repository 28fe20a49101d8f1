"""Exported programs (.pt2) as networks, loaded without executing content of the file.

torch.export.load evaluates the size expressions of a file, resolves the functions that it names,
generates Python code from its names, unpickles unknown parts, and loads compiled libraries. So
torch gets a new archive, built only from checked parts: a graph of known operators, and plain
tensors.
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
"""torch.load's switch that allows only tensors, whatever the caller requests. The new archive
contains nothing pickled; the switch is a second barrier for later versions of torch."""
_NONE = (
    "cannot be read as a torch exported program of plain tensors; write it with torch.export.save "
    "of this torch version"
)
"""Error for a file that is no valid exported program."""
_lock = threading.Lock()


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """Sets torch's switch, and silences the stack trace that torch logs for a file it cannot load.
    Both are global to the process, so they are set only during the load."""
    logger = logging.getLogger("torch.export")
    previous_value, previous_level = os.environ.get(_FORCE), logger.level
    os.environ[_FORCE] = "1"
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(previous_level)
        if previous_value is None:
            del os.environ[_FORCE]
        else:
            os.environ[_FORCE] = previous_value


class ExportedProgram(nn.Module):
    """The network of an exported program, always in inference mode.

    Args:
        file: written by torch.export.save.

    Raises:
        ModelError: the file is invalid, or contains more than a graph and tensors.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        try:
            archive = checked_archive(file)
        except Refused as refused:
            raise ModelError(
                f"{file}: {refused}, and is not loaded, since such a file could run code",
                fix="export the network without custom objects and operators, or to ONNX",
            ) from None
        except Exception as error:
            # zipfile and json raise many types for other files.
            raise ModelError(f"{file} {_NONE}") from error
        try:
            with _lock, _tensors_only():
                self.program = torch.export.load(archive).module()
        except Exception as error:
            # torch.export.load has no exception type of its own.
            raise ModelError(f"{file} {_NONE}") from error

    def train(self, mode: bool = True) -> "ExportedProgram":
        """Does nothing: the exported graph has a fixed mode."""
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """Runs the program."""
        outputs: torch.Tensor | tuple[torch.Tensor, ...] = self.program(x)
        return outputs
