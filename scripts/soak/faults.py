"""Runs a node with a fault every few seconds, and checks that memory, threads, file descriptors and
latency stay flat. Used by `scripts/soak.py --minutes`."""

import random
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import psutil
import zmq

from faults.rig import Rig, rig, wait_until
from perception_client.subscriber import Control, Subscriber

_LONGEST_BACK_S = 15.0
_FAULT_S = (0.7, 2.0)
_QUIET_S = (1.0, 3.0)


@dataclass(frozen=True, slots=True)
class Slope:
    """One figure over the run: at the end of its first fifth, at its end (each the median of a
    tenth), and its growth per hour by a line fitted through all values."""

    name: str
    unit: str
    start: float
    end: float
    per_hour: float


@dataclass(frozen=True, slots=True)
class Lived:
    """seconds, faults: duration of the run, and number of faults. longest_back_s: longest time from
    a fault to the next label. slopes: of memory, threads, file descriptors and latency."""

    seconds: float
    faults: int
    longest_back_s: float
    slopes: list[Slope]

    @property
    def flat(self) -> bool:
        """Whether no figure grew beyond 30 MiB, 3 threads, 5 descriptors, and 1.5 times the
        latency."""
        allowed = {"memory": 30.0, "threads": 3.0, "descriptors": 5.0}
        for slope in self.slopes:
            most = allowed.get(slope.name, max(10.0, slope.start * 0.5))
            if slope.end - slope.start > most:
                return False
        return self.longest_back_s <= _LONGEST_BACK_S


def live(seconds: float) -> Lived:
    """Runs a node and its faults. Raises TimeoutError where a camera does not come back."""
    samples: list[tuple[float, float, float, float, float]] = []
    faults, longest_s = 0, 0.0
    with rig() as setup, Subscriber(setup.node.labels) as health:
        process = psutil.Process(setup.node.process.pid)
        kinds = _kinds(setup)
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            back_s = next(kinds)
            faults += 1
            longest_s = max(longest_s, back_s)
            _quiet(random.uniform(*_QUIET_S))
            latency = health.health(5.0).latency_ns
            with process.oneshot():
                samples.append(
                    (
                        time.monotonic() - started,
                        process.memory_info().rss / 2**20,
                        float(process.num_threads()),
                        float(process.num_fds()),
                        latency.p99 / 1e6 if latency else float("nan"),
                    )
                )
            setup.monitor.forget()
        total = time.monotonic() - started
    return Lived(total, faults, longest_s, _slopes(np.array(samples)))


def _kinds(setup: Rig) -> Iterator[float]:
    """Injects one fault after another, in random order; yields the time to recover of each."""
    stream = setup.stream
    actions: list[Callable[[], object]] = [
        *(_moded(setup, mode) for mode in
          ("silent", "frozen", "garbage", "reset", "half", "mixed", "lying", "empty", "small")),
        lambda: _killed(setup),
        lambda: _joins(setup, 50),
        lambda: _paused(setup),
    ]  # fmt: skip
    while True:
        random.choice(actions)()
        ended = time.monotonic()
        stream.mode("good")
        back = setup.monitor.first_ok("stream", ended)
        setup.monitor.first_ok("steady", ended)
        yield back.at_s - ended


def _moded(setup: Rig, mode: str) -> Callable[[], None]:
    def work() -> None:
        setup.stream.mode(mode)
        _quiet(random.uniform(*_FAULT_S))

    return work


def _killed(setup: Rig) -> None:
    setup.stream.signal(signal.SIGSTOP)
    _quiet(random.uniform(*_FAULT_S))
    setup.stream.kill()
    setup.stream.start()


def _joins(setup: Rig, count: int) -> None:
    context = zmq.Context()
    for _ in range(count):
        with context.socket(zmq.SUB) as joining:
            joining.linger = 0
            joining.subscribe(b"")
            joining.connect(setup.node.labels)
            joining.poll(5)
    context.term()


def _paused(setup: Rig) -> None:
    with Control(setup.node.control, timeout_s=30) as control:
        control.pause()
        _quiet(random.uniform(*_FAULT_S))
        control.resume()
        wait_until(lambda: control.status()["paused"] == [], "the cameras are resumed")


def _quiet(seconds: float) -> None:
    time.sleep(seconds)  # the run's own rhythm


def _slopes(samples: np.ndarray) -> list[Slope]:
    after = samples[len(samples) // 5 :]
    tenth = max(1, len(after) // 10)
    slopes = []
    for column, (name, unit) in enumerate(
        (("memory", "MiB"), ("threads", ""), ("descriptors", ""), ("latency p99", "ms")), start=1
    ):
        rows = after[~np.isnan(after[:, column])]
        slope = np.polyfit(rows[:, 0], rows[:, column], 1)[0] if len(rows) > 2 else 0.0
        start, end = (statistics.median(part[:, column]) for part in (rows[:tenth], rows[-tenth:]))
        slopes.append(Slope(name, unit, float(start), float(end), float(slope * 3600)))
    return slopes
