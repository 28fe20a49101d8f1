"""TuningResult: the result of `perception-node tune` for one model on this computer, stored as a
JSON file."""

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

from node.errors import ModelError
from node.perception.cache import cache_folder, is_whole, write_whole
from node.perception.models.model import Model
from node.perception.runtimes.export_key import export_key
from node.perception.runtimes.gpus import gpu_name

log = logging.getLogger(__name__)

_EQUALLY_FAST = 1.05
"""Factor of the fastest time within which choices count as equally fast: the difference is below
the noise of a shared computer."""
_PACKAGES = ("perception-node", "torch", "onnxruntime", "openvino")
"""Packages whose versions invalidate a result."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to run a model.

    Attributes:
        runtime: engine, such as `torch`.
        precision: such as `fp32`.
        device: `cpu` or `cuda:0`.
        threads: CPU threads; None: the engine's default.
        graph: for `int8`, the quantised graph.
        float_layers: for `int8`, how many of the first layers stay in floating point.
        compiles: on a GPU, Inductor compiles the network.
    """

    runtime: str
    precision: str
    device: str
    threads: int | None = None
    graph: Path | None = None
    float_layers: int = 0
    compiles: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """Measurement of one choice; None for values that were not measured. Times are of the inference
    alone, in ms a frame.

    Attributes:
        choice: the choice.
        median_ms: median time.
        p10_ms: 10th percentile.
        p90_ms: 90th percentile.
        cpu_ms: CPU time of all threads.
        agreement: mean agreement with torch in float32 on the held-out frames, 0 to 1; for a
            classifier, the fraction of frames with the same best label.
        score_difference: largest difference of a score from torch in float32.
        refused: why the choice must not be used, None for a usable one.
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
    """All measurements of one model, fastest first.

    Attributes:
        model: name of the model.
        frames: description of the frames.
        made: date and time, ISO 8601.
        measured: the measurements.
    """

    model: str
    frames: str
    made: str
    measured: tuple[Measured, ...]

    @property
    def winner(self) -> Choice | None:
        """The best choice of sufficient accuracy, None without one."""
        return _best(self.measured)

    def fastest(self, precision: str) -> Choice | None:
        """Returns the best choice of one precision with sufficient accuracy, None without one."""
        return _best(row for row in self.measured if row.choice.precision == precision)


def _best(measured: Iterable[Measured]) -> Choice | None:
    """Returns, of the choices about as fast as the fastest, the most accurate, then the one with
    the least CPU time."""
    accepted = [row for row in measured if row.refused is None and row.median_ms is not None]
    if not accepted:
        return None
    limit_ms = _EQUALLY_FAST * min(row.median_ms or 0 for row in accepted)
    equally_fast = [row for row in accepted if (row.median_ms or 0) <= limit_ms]
    return min(equally_fast, key=lambda row: (-(row.agreement or 0), row.cpu_ms or 0)).choice


def result_file(model: Model) -> Path:
    """Returns the file of the result for this model, this computer and these versions."""
    parts = [export_key(model), *(f"{key}={value}" for key, value in computer().items())]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return cache_folder() / "tuned" / f"{model.name}-{key}.json"


def computer() -> dict[str, str]:
    """Returns what a result depends on: processor, cores, GPU, and versions of the engines."""
    properties = {"processor": _processor(), "cores": str(os.cpu_count()), "gpu": gpu_name()}
    return properties | {name: _version_of(name) for name in _PACKAGES}


def _version_of(package: str) -> str:
    """A vendor's torch (a Jetson's) can lack the metadata that pip writes."""
    try:
        return version(package)
    except PackageNotFoundError:
        return str(getattr(sys.modules.get(package), "__version__", "unknown"))


def keep(model: Model, tuned: TuningResult) -> Path:
    """Writes a result and returns its file. Raises ModelError."""
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
    """Returns the stored result; None if there is none, or if it cannot be read, which is
    logged."""
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
    return TuningResult(
        tuned.model, tuned.frames, tuned.made, tuple(_with_intact_graph(tuned.measured))
    )


def _measured(row: dict[str, Any]) -> Measured:
    choice = dict(row.pop("choice"))
    graph = choice.pop("graph")
    return Measured(choice=Choice(**choice, graph=Path(graph) if graph else None), **row)


def _with_intact_graph(measured: tuple[Measured, ...]) -> list[Measured]:
    """Excludes choices whose quantised graph was deleted or damaged."""
    return [
        row for row in measured if row.choice.graph is None or is_whole(row.choice.graph.parent)
    ]


def _processor() -> str:
    try:
        model_name = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        model_name = None
    return model_name[1] if model_name else platform.processor() or platform.machine()
