"""Measures every way to run a model on this computer, and its agreement with torch in float32."""

import datetime
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import psutil
from numpy.typing import NDArray

from node.config.schema import DetectConfig, SegmentConfig
from node.errors import ModelError
from node.perception.models.model import Model
from node.perception.perceiver import task_of
from node.perception.runtimes.base import Runtime
from node.perception.runtimes.gpus import gpu_count
from node.perception.runtimes.select import (
    GPU_PRECISIONS,
    PRECISIONS,
    build_choice,
    runs_on_gpu,
    runtimes_of,
)
from node.perception.runtimes.tuning_result import Choice, Measured, TuningResult
from node.perception.tasks.base import Outputs, Prediction, Task
from node.perception.tasks.detect import AGREEMENT_SCORE
from node.perception.tuning.quantise import MIN_FRAMES, quantised

log = logging.getLogger(__name__)

FLOORS: Mapping[str, float] = {"fp32": 0.99, "bf16": 0.99, "fp16": 0.99, "int8": 0.98}
"""Smallest agreement with the reference, for each precision."""
INT8_FRAMES = 2 * MIN_FRAMES
"""Fewest frames for int8: one half calibrates, the other half evaluates."""
FLOAT_LAYERS = (0, 16)
"""Numbers of first layers in floating point that are tried: all int8 is fastest, but not always
accurate."""
_PASSES = 3
_FRAMES_A_PASS = 20
_WARMUP = 4

Progress = Callable[[str, int, int], None]
"""Called with (step in words, done, total)."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    choice: Choice
    runtime: Runtime
    agreement: float
    score_difference: float


def tune(
    model: Model,
    pixels: Sequence[NDArray[np.uint8]],
    frames: str,
    floors: Mapping[str, float] = FLOORS,
    progress: Progress = lambda step, done, total: None,
    threads: int | None = None,
) -> TuningResult:
    """Measures all choices in turn on the same frames.

    Args:
        model: the model.
        pixels: real frames, each [1, height, width, 3] uint8 BGR, as `Preprocessor` produces. With
            enough frames for int8, every second one calibrates int8 and is excluded from the
            evaluation.
        frames: description of the frames.
        floors: smallest agreement for each precision.
        progress: called for each step.
        threads: the only number of CPU threads to try; None: several.

    Raises:
        ModelError: the reference cannot run, or its outputs are invalid.
    """
    evaluated = list(pixels[1::2] if len(pixels) >= INT8_FRAMES else pixels)
    task = task_of(model, 1, DetectConfig(), SegmentConfig())
    reference = _reference(model, evaluated)
    shows = [task.read(outputs, 0, model.preprocess.crop_px) for outputs in reference]
    choices, refused = _choices(model, pixels, [threads] if threads else _threads(), progress)
    candidates, failed = _examine(model, task, choices, evaluated, reference, progress)
    measured = _measure(candidates, evaluated, floors, progress)
    if model.task == "detect" and not _show_objects(shows):
        measured = [_unproven(row) for row in measured]
    ordered = sorted(measured, key=lambda row: row.median_ms or 0)
    made = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return TuningResult(model.name, frames, made, (*ordered, *failed, *refused))


def _reference(model: Model, evaluated: Sequence[NDArray[np.uint8]]) -> list[Outputs]:
    """Returns the outputs of the reference. A user's graph has no torch network, and not every
    engine has its operators, so the first that runs it is the reference."""
    *others, last = reference_choices(model)
    for choice in others:
        try:
            return _outputs_of(model, build_choice(model, choice), evaluated)
        except ModelError as error:
            log.warning("%s; the reference is another runtime", error.problem)
    return _outputs_of(model, build_choice(model, last), evaluated)


def reference_choices(model: Model) -> list[Choice]:
    """Returns the references of all comparisons, the first that runs: torch in float32, or for a
    user's graph OpenVINO, or ONNX Runtime, in float32."""
    runtimes = runtimes_of(model)
    names = ("torch",) if "torch" in runtimes else tuple(reversed(runtimes))
    return [Choice(name, "fp32", "cpu") for name in names]


def _choices(
    model: Model,
    pixels: Sequence[NDArray[np.uint8]],
    threads: Sequence[int],
    progress: Progress,
) -> tuple[list[Choice], list[Measured]]:
    """Returns the choices that can be tried here, and the others with the reason."""
    plain = [
        Choice(runtime, precision, "cpu")
        for runtime in runtimes_of(model)
        for precision in PRECISIONS[runtime]
        if precision != "int8"
    ]
    int8, refused = _int8(model, pixels, progress)
    on_cpu = [replace(choice, threads=count) for choice in (*plain, *int8) for count in threads]
    on_gpu = [
        Choice("torch", precision, f"cuda:{index}", compiles=compiles)
        for index in range(gpu_count() if runs_on_gpu(model) else 0)
        for precision in GPU_PRECISIONS
        for compiles in (False, True)
    ]
    return on_gpu + on_cpu, refused


def _int8(
    model: Model, pixels: Sequence[NDArray[np.uint8]], progress: Progress
) -> tuple[list[Choice], list[Measured]]:
    choices = []
    if len(pixels) < INT8_FRAMES:
        reason = (
            f"int8 needs {INT8_FRAMES} frames or more of what the robot sees, to calibrate on one "
            f"half and to compare on the other; these are {len(pixels)}"
        )
        return [], [Measured(Choice("openvino", "int8", "cpu"), refused=reason)]
    for index, float_layers in enumerate(FLOAT_LAYERS):
        progress("quantising to int8", index, len(FLOAT_LAYERS))
        try:
            graph = quantised(model, pixels[0::2], float_layers)
        except ModelError as error:
            return [], [Measured(Choice("openvino", "int8", "cpu"), refused=error.problem)]
        choices.append(Choice("openvino", "int8", "cpu", graph=graph, float_layers=float_layers))
    return choices, []


def _threads() -> list[int]:
    """Returns the thread counts to try: one, half of the cores, all."""
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return sorted({1, max(1, cores // 2), cores})


def _examine(
    model: Model,
    task: Task,
    choices: Sequence[Choice],
    evaluated: Sequence[NDArray[np.uint8]],
    reference: list[Outputs],
    progress: Progress,
) -> tuple[list[_Candidate], list[Measured]]:
    """Builds each choice and compares its outputs; choices that differ only in threads share a
    comparison."""
    candidates: list[_Candidate] = []
    failed: list[Measured] = []
    accuracy: dict[Choice, tuple[float, float]] = {}
    for index, choice in enumerate(choices):
        progress("comparing with the reference", index, len(choices))
        without_threads = replace(choice, threads=None)
        try:
            runtime = build_choice(model, choice)
            if choice.compiles and not getattr(runtime, "is_compiled", False):
                raise ModelError("Inductor does not make it faster here, or cannot compile it")
            if without_threads not in accuracy:
                accuracy[without_threads] = _compare(
                    task, _outputs_of(model, runtime, evaluated), reference
                )
        except ModelError as error:
            failed.append(Measured(choice, refused=error.problem))
            continue
        candidates.append(_Candidate(choice, runtime, *accuracy[without_threads]))
    return candidates, failed


def _outputs_of(
    model: Model, runtime: Runtime, pixels: Sequence[NDArray[np.uint8]]
) -> list[Outputs]:
    results = []
    for frame in pixels:
        outputs = runtime.infer(frame)
        results.append(tuple(outputs[index].copy() for index in model.output_order))
    return results


def _compare(task: Task, actual: list[Outputs], reference: list[Outputs]) -> tuple[float, float]:
    """Returns the mean agreement and the largest difference of a score."""
    pairs = [
        task.agreement(outputs, reference_outputs)
        for outputs, reference_outputs in zip(actual, reference, strict=True)
    ]
    return statistics.fmean(agreement for agreement, _ in pairs), max(
        difference for _, difference in pairs
    )


def _show_objects(shows: Sequence[Prediction]) -> bool:
    return any(
        detection.score >= AGREEMENT_SCORE for seen in shows for detection in seen.detections
    )


def _unproven(row: Measured) -> Measured:
    """Refuses a lower precision if no frame shows an object: nothing was compared."""
    if row.choice.precision == "fp32" or row.refused is not None:
        return row
    return replace(row, agreement=None, refused="no frame shows an object to compare")


def _measure(
    candidates: Sequence[_Candidate],
    pixels: Sequence[NDArray[np.uint8]],
    floors: Mapping[str, float],
    progress: Progress,
) -> list[Measured]:
    """Measures all candidates in turn, several times, so that a load peak affects all of them."""
    times: list[list[float]] = [[] for _ in candidates]
    cpu: list[list[float]] = [[] for _ in candidates]
    total = _PASSES * len(candidates)
    for turn in range(_PASSES):
        for index, candidate in enumerate(candidates):
            progress("measuring", turn * len(candidates) + index, total)
            block, cpu_ms = _block(candidate.runtime, pixels)
            times[index] += block
            cpu[index].append(cpu_ms)
    progress("measuring", total, total)
    return [
        _row(candidate, times[index], statistics.median(cpu[index]), floors)
        for index, candidate in enumerate(candidates)
    ]


def _block(runtime: Runtime, pixels: Sequence[NDArray[np.uint8]]) -> tuple[list[float], float]:
    """Returns the time of each frame of a block in ms, and the CPU time a frame in ms."""
    frames = _cycled(pixels)
    for _ in range(_WARMUP):
        runtime.infer(next(frames))
    times = []
    cpu_before = time.process_time()
    for _ in range(_FRAMES_A_PASS):
        frame = next(frames)
        started = time.perf_counter()
        runtime.infer(frame)
        times.append((time.perf_counter() - started) * 1e3)
    return times, (time.process_time() - cpu_before) * 1e3 / _FRAMES_A_PASS


def _cycled(pixels: Sequence[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    while True:
        yield from pixels


def _row(
    candidate: _Candidate, times: list[float], cpu_ms: float, floors: Mapping[str, float]
) -> Measured:
    floor = floors[candidate.choice.precision]
    too_low = candidate.agreement < floor
    p10, median, p90 = np.percentile(times, [10, 50, 90])
    return Measured(
        choice=candidate.choice,
        median_ms=float(median),
        p10_ms=float(p10),
        p90_ms=float(p90),
        cpu_ms=cpu_ms,
        agreement=candidate.agreement,
        score_difference=candidate.score_difference,
        refused=f"agreement under the floor of {floor:.1%}" if too_low else None,
    )
