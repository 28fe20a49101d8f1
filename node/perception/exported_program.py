"""Exported programs (.pt2) as networks, read without running anything that a file holds.

torch.export.load unpickles whatever it does not know otherwise, custom objects and sample inputs,
and loads compiled libraries. Here an archive may hold a graph, plain tensors and notes about them
only, and torch is told to unpickle tensors only.
"""

import os
import re
import threading
import zipfile
from pathlib import Path

import torch
from torch import nn

from node.errors import ModelError

_ALLOWED = re.compile(
    r"[^/]*/("
    r"archive_format|archive_version|byteorder|version|\.data/[a-z_]+"
    r"|models/[^/]+\.json"
    r"|data/weights/(weight_\d+|[^/]+_config\.json)"
    r"|data/constants/(tensor_\d+|[^/]+_config\.json)"
    r"|data/sample_inputs/[^/]+\.pt"
    r"|extra/[^/]+"
    r")"
)
_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""torch.load's own switch: nothing but tensors, whatever the caller asks for."""
_lock = threading.Lock()


class ExportedProgram(nn.Module):
    """It is for inference already, whatever it is told.

    Raises ModelError for a file that is none, or that holds more than a graph and tensors.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        _check(file)
        try:
            with _lock:  # the environment is everybody's
                before = os.environ.get(_FORCE)
                os.environ[_FORCE] = "1"
                try:
                    self.program = torch.export.load(file).module()
                finally:
                    if before is None:
                        del os.environ[_FORCE]
                    else:
                        os.environ[_FORCE] = before
        except Exception as error:  # torch.export.load has no exception of its own
            raise ModelError(
                f"{file} cannot be read as a torch exported program of plain tensors; "
                "write it with torch.export.save of this torch version"
            ) from error

    def train(self, mode: bool = True) -> "ExportedProgram":
        """Changes nothing."""
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """As the program."""
        outputs: torch.Tensor | tuple[torch.Tensor, ...] = self.program(x)
        return outputs


def _check(file: Path) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{file} cannot be read as a torch exported program; write it with torch.export.save"
        ) from error
    for name in names:
        if not _ALLOWED.fullmatch(name):
            raise ModelError(
                f"{file}: holds {name!r:.60}, neither graph nor tensor, which could run code; "
                "export the network without custom objects, or to ONNX"
            )
