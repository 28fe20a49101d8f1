"""Profile: where a frame's time goes, stage by stage, as its receiver sees it."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields

from perception_client.messages.kinds import LabelsMessage, Timing


@dataclass(frozen=True, slots=True)
class Spread:
    """Percentiles of a duration in ms."""

    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, durations_ns: Sequence[float]) -> "Spread":
        """Nearest-rank percentiles of durations in ns, at least one."""
        ordered = sorted(durations_ns)
        at = [ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in _SHARES]
        return cls(*(value / 1e6 for value in (*at, ordered[-1])))


_SHARES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Profile:
    """What a receiver saw. Durations in ms.

    lost: messages sent and not received; dropped: frames given up for newer ones.
    stages: the steps of one frame in order, with `publish` from the hand-over to the arrival.
    total: from capture to arrival. interval: between two arrivals; jitter_ms: its standard
    deviation.
    """

    messages: int
    lost: int
    dropped: int
    fps: float
    total: Spread
    stages: dict[str, Spread]
    interval: Spread
    jitter_ms: float

    def as_json(self) -> dict[str, object]:
        """The same as plain values."""
        return asdict(self)


@dataclass(slots=True)
class Profiler:
    """Gathers messages of one camera in the order in which they arrived."""

    _arrivals_ns: list[int] = field(default_factory=list)
    _totals_ns: list[int] = field(default_factory=list)
    _stages_ns: dict[str, list[int]] = field(default_factory=dict)
    _lost: int = 0
    _dropped: int = 0
    _last_seq: int | None = None

    def add(self, message: LabelsMessage, arrived_mono_ns: int) -> None:
        """Takes a message that arrived now, on CLOCK_MONOTONIC of the node's own computer.

        A retained message, one without a frame and one without stamps of this clock is left out.
        """
        timing, published_ns = message.timing_ns, message.published_mono_ns
        if message.retained or timing is None or published_ns is None:
            return
        if self._last_seq is not None:
            self._lost += message.seq - self._last_seq - 1
            self._dropped += message.dropped
        self._last_seq = message.seq
        captured_ns = message.stamp_mono_ns or published_ns - timing.total
        self._arrivals_ns.append(arrived_mono_ns)
        self._totals_ns.append(arrived_mono_ns - captured_ns)
        for stage in fields(Timing):
            self._stages_ns.setdefault(stage.name, []).append(getattr(timing, stage.name))
        self._stages_ns.setdefault("publish", []).append(arrived_mono_ns - published_ns)

    def result(self) -> Profile | None:
        """The profile so far; None before the third message."""
        if len(self._arrivals_ns) < 3:
            return None
        pairs = zip(self._arrivals_ns, self._arrivals_ns[1:], strict=False)
        intervals = [later - earlier for earlier, later in pairs]
        elapsed_s = (self._arrivals_ns[-1] - self._arrivals_ns[0]) / 1e9
        return Profile(
            messages=len(self._arrivals_ns),
            lost=self._lost,
            dropped=self._dropped,
            fps=len(intervals) / elapsed_s,
            total=Spread.of(self._totals_ns),
            stages={name: Spread.of(values) for name, values in self._stages_ns.items()},
            interval=Spread.of(intervals),
            jitter_ms=statistics.pstdev(intervals) / 1e6,
        )
