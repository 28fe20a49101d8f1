"""Tune: measures every way to run a model on this computer, and how much each agrees with torch in
float32."""

import datetime
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import psutil
import torch

from node.config.schema import DetectConfig, SegmentConfig
from node.errors import ModelError
from node.perception.models.model import Model
from node.perception.perceiver import set_torch_threads, task_of
from node.perception.runtimes.base import Runtime
from node.perception.runtimes.select import GPU_PRECISIONS, PRECISIONS, build_choice
from node.perception.runtimes.tuning_result import Choice, Measured, TuningResult
from node.perception.tasks.base import Outputs, Task
from node.perception.tuning.quantise import MIN_FRAMES, quantised

log = logging.getLogger(__name__)

FLOORS: Mapping[str, float] = {"fp32": 0.99, "bf16": 0.99, "fp16": 0.99, "int8": 0.98}
"""Smallest share of held-out frames that must keep their best label, for each precision."""
INT8_FRAMES = 2 * MIN_FRAMES
"""Fewest frames for int8: half of them calibrate it, the other half judge it."""
FLOAT_LAYERS = (0, 16)
"""First layers left in floating point, tried in turn: all int8 is fastest, and not always right."""
_PASSES = 3
_FRAMES_A_PASS = 20
_WARMUP = 4

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class _Candidate:
    choice: Choice
    runtime: Runtime
    agreement: float
    score_difference: float


def tune(
    model: Model,
    pixels: Sequence[torch.Tensor],
    frames: str,
    floors: Mapping[str, float] = FLOORS,
    progress: Progress = lambda what, done, total: None,
    threads: int | None = None,
) -> TuningResult:
    """Measures all choices in turn on the same frames.

    pixels: real frames, each [1, height, width, 3] uint8 BGR as `Preprocessor` makes them; every
    second one calibrates int8 and is not judged on. frames: what they are, in words.
    progress: called with what is done, how far, of how much. threads: the only thread count to
    try, None for several. Raises ModelError where not even the reference runs.
    """
    judged = list(pixels[1::2] if len(pixels) >= INT8_FRAMES else pixels)
    threads_before = torch.get_num_threads()
    reference = _answers(model, build_choice(model, reference_choice(model)), judged)
    choices, refused = _choices(model, pixels[0::2], [threads] if threads else _threads(), progress)
    candidates, failed = _examine(model, choices, judged, reference, progress)
    measured = _measure(candidates, judged, floors, progress)
    torch.set_num_threads(threads_before)
    ordered = sorted(measured, key=lambda row: row.median_ms or 0)
    made = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return TuningResult(model.name, frames, made, (*ordered, *failed, *refused))


def reference_choice(model: Model) -> Choice:
    """What all others are judged by: torch in float32, OpenVINO's float32 for a bare graph."""
    return Choice("torch" if model.build is not None else "openvino", "fp32", "cpu")


def _choices(
    model: Model,
    calibration: Sequence[torch.Tensor],
    threads: Sequence[int],
    progress: Progress,
) -> tuple[list[Choice], list[Measured]]:
    """What can be tried here, and what cannot with the reason."""
    plain = [
        Choice(runtime, precision, "cpu")
        for runtime, precisions in PRECISIONS.items()
        for precision in precisions
        if precision != "int8"
    ]
    int8, refused = _int8(model, calibration, progress)
    on_cpu = [replace(choice, threads=count) for choice in (*plain, *int8) for count in threads]
    on_gpu = [
        Choice("torch", precision, f"cuda:{place}")
        for place in range(torch.cuda.device_count())
        for precision in GPU_PRECISIONS
    ]
    return on_gpu + on_cpu, refused


def _int8(
    model: Model, calibration: Sequence[torch.Tensor], progress: Progress
) -> tuple[list[Choice], list[Measured]]:
    choices = []
    for place, float_layers in enumerate(FLOAT_LAYERS):
        progress("quantising to int8", place, len(FLOAT_LAYERS))
        try:
            graph = quantised(model, calibration, float_layers)
        except ModelError as error:
            return [], [Measured(Choice("openvino", "int8", "cpu"), refused=str(error))]
        choices.append(Choice("openvino", "int8", "cpu", graph=graph, float_layers=float_layers))
    return choices, []


def _threads() -> list[int]:
    """Thread counts to try: one, half of the cores, all."""
    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return sorted({1, max(1, cores // 2), cores})


def _examine(
    model: Model,
    choices: Sequence[Choice],
    judged: Sequence[torch.Tensor],
    reference: list[Outputs],
    progress: Progress,
) -> tuple[list[_Candidate], list[Measured]]:
    """Builds each choice and compares its answers; thread counts share an answer."""
    candidates: list[_Candidate] = []
    failed: list[Measured] = []
    accuracy: dict[Choice, tuple[float, float]] = {}
    task = task_of(model, 1, DetectConfig(), SegmentConfig())
    for place, choice in enumerate(choices):
        progress("comparing with torch fp32", place, len(choices))
        alike = replace(choice, threads=None)
        try:
            runtime = build_choice(model, choice)
            set_torch_threads(runtime, choice.threads)
            if alike not in accuracy:
                accuracy[alike] = _compare(task, _answers(model, runtime, judged), reference)
        except ModelError as error:
            failed.append(Measured(choice, refused=str(error)))
            continue
        candidates.append(_Candidate(choice, runtime, *accuracy[alike]))
    return candidates, failed


def _answers(model: Model, runtime: Runtime, pixels: Sequence[torch.Tensor]) -> list[Outputs]:
    answers = []
    for frame in pixels:
        outputs = runtime.infer(frame)
        answers.append(tuple(outputs[place].copy() for place in model.output_order))
    return answers


def _compare(task: Task, got: list[Outputs], reference: list[Outputs]) -> tuple[float, float]:
    """Mean agreement, and the largest difference of a score."""
    pairs = [task.agreement(a, b) for a, b in zip(got, reference, strict=True)]
    return statistics.fmean(share for share, _ in pairs), max(apart for _, apart in pairs)


def _measure(
    candidates: Sequence[_Candidate],
    pixels: Sequence[torch.Tensor],
    floors: Mapping[str, float],
    progress: Progress,
) -> list[Measured]:
    """All candidates by turns, several times, so that a busy moment hits none alone."""
    times: list[list[float]] = [[] for _ in candidates]
    cpu: list[list[float]] = [[] for _ in candidates]
    total = _PASSES * len(candidates)
    for turn in range(_PASSES):
        for place, candidate in enumerate(candidates):
            progress("measuring", turn * len(candidates) + place, total)
            set_torch_threads(candidate.runtime, candidate.choice.threads)
            block, cpu_ms = _block(candidate.runtime, pixels)
            times[place] += block
            cpu[place].append(cpu_ms)
    progress("measuring", total, total)
    return [
        _row(candidate, times[place], statistics.median(cpu[place]), floors)
        for place, candidate in enumerate(candidates)
    ]


def _block(runtime: Runtime, pixels: Sequence[torch.Tensor]) -> tuple[list[float], float]:
    """Milliseconds of each of some frames, and CPU milliseconds a frame."""
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


def _cycled(pixels: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
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
