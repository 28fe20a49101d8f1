"""TuningResult: what `perception-node tune` found out for one model on this computer, kept as a
file that a person can read."""

import hashlib
import json
import logging
import os
import platform
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from node.errors import ModelError
from node.perception.cache import cache_folder, is_whole, write_whole
from node.perception.models.model import Model
from node.perception.runtimes.export import export_key

log = logging.getLogger(__name__)

_AS_FAST = 1.05
"""Choices within a twentieth of the fastest differ by less than a shared computer's noise."""
_PACKAGES = ("perception-node", "torch", "onnxruntime", "openvino")


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to run a model. threads: CPU threads, None for the engine's own choice.

    graph: for `int8` the quantised graph's file; float_layers: how many of its first layers are in
    floating point.
    """

    runtime: str
    precision: str
    device: str
    threads: int | None = None
    graph: Path | None = None
    float_layers: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """What one choice came to. Times are of the inference alone, in ms a frame.

    cpu_ms: CPU time of all threads. agreement: share of the held-out frames that get the best label
    of torch in float32; score_difference: the largest of any label's score there. None where it
    could not be measured; refused says why a choice may not be used.
    """

    choice: Choice
    median_ms: float | None = None
    p10_ms: float | None = None
    p90_ms: float | None = None
    cpu_ms: float | None = None
    agreement: float | None = None
    score_difference: float | None = None
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class TuningResult:
    """The whole result, fastest first. frames: what it was measured on, in words."""

    model: str
    frames: str
    made: str
    measured: tuple[Measured, ...]

    @property
    def winner(self) -> Choice | None:
        """The fastest choice that holds the accuracy floor, None where nothing does."""
        return _best(self.measured)

    def fastest(self, precision: str) -> Choice | None:
        """The fastest accepted choice of one precision."""
        return _best(row for row in self.measured if row.choice.precision == precision)


def _best(measured: Iterable[Measured]) -> Choice | None:
    """Of those as fast as the fastest the most faithful, then the one that leaves most CPU."""
    accepted = [row for row in measured if row.refused is None and row.median_ms is not None]
    if not accepted:
        return None
    limit_ms = _AS_FAST * min(row.median_ms or 0 for row in accepted)
    near = [row for row in accepted if (row.median_ms or 0) <= limit_ms]
    return min(near, key=lambda row: (-(row.agreement or 0), row.cpu_ms or 0)).choice


def result_file(model: Model) -> Path:
    """Where the result for this model on this computer with these versions is kept."""
    parts = [export_key(model), *(f"{key}={value}" for key, value in computer().items())]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return cache_folder() / "tuned" / f"{model.name}-{key}.json"


def computer() -> dict[str, str]:
    """What a result depends on: processor, cores, GPU, and the versions of the engines."""
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    found = {"processor": _processor(), "cores": str(os.cpu_count()), "gpu": gpu}
    return found | {name: _version_of(name) for name in _PACKAGES}


def _version_of(package: str) -> str:
    """A vendor's torch (a Jetson's) can lack the metadata that pip writes."""
    try:
        return version(package)
    except PackageNotFoundError:
        return str(getattr(sys.modules.get(package), "__version__", "unknown"))


def keep(model: Model, tuned: TuningResult) -> Path:
    """Writes the result and gives its file. Raises ModelError."""
    file = result_file(model)
    winner = tuned.winner
    content = {
        "model": tuned.model,
        "frames": tuned.frames,
        "made": tuned.made,
        "computer": computer(),
        "winner": asdict(winner) if winner else None,
        "measured": [asdict(row) for row in tuned.measured],
    }
    try:
        write_whole(file, json.dumps(content, indent=2, default=str) + "\n")
    except OSError as error:
        raise ModelError(f"{file} cannot be written: {error.strerror}") from error
    return file


def kept_result(model: Model) -> TuningResult | None:
    """The kept result, None where there is none. One that cannot be read is said and left out."""
    file = result_file(model)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        tuned = TuningResult(
            model=content["model"],
            frames=content["frames"],
            made=content["made"],
            measured=tuple(_measured(row) for row in content["measured"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be used (%s); run perception-node tune again", file, error)
        return None
    return TuningResult(tuned.model, tuned.frames, tuned.made, tuple(_still_there(tuned.measured)))


def _measured(row: dict[str, Any]) -> Measured:
    choice = dict(row.pop("choice"))
    graph = choice.pop("graph")
    return Measured(choice=Choice(**choice, graph=Path(graph) if graph else None), **row)


def _still_there(measured: tuple[Measured, ...]) -> list[Measured]:
    """Without the choices whose quantised graph was deleted or damaged since."""
    return [
        row for row in measured if row.choice.graph is None or is_whole(row.choice.graph.parent)
    ]


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()
