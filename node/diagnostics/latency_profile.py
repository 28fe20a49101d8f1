"""Profile: the duration of each stage of a frame, measured at the receiver."""

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
    """Latency of one camera's messages at the receiver; durations in ms."""

    messages: int
    lost: int
    """Messages sent and not received."""
    dropped: int
    """Frames dropped for newer ones."""
    fps: float
    total: Spread
    """From capture to arrival."""
    stages: dict[str, Spread]
    """Stages of a frame in order; `publish` lasts from the hand-over to the arrival."""
    interval: Spread
    """Between two arrivals."""
    jitter_ms: float
    """Standard deviation of `interval`."""

    def as_json(self) -> dict[str, object]:
        """The profile as plain values."""
        return asdict(self)


@dataclass(slots=True)
class Profiler:
    """Collects messages of one camera in the order of their arrival."""

    _arrivals_ns: list[int] = field(default_factory=list)
    _totals_ns: list[int] = field(default_factory=list)
    _stages_ns: dict[str, list[int]] = field(default_factory=dict)
    _lost: int = 0
    _dropped: int = 0
    _last_seq: int | None = None

    def add(self, message: LabelsMessage, arrived_mono_ns: int) -> None:
        """Adds a message that arrived at `arrived_mono_ns` on CLOCK_MONOTONIC of the node's
        computer.

        Skips a retained message, a message without a frame, and one without stamps of this clock.
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
        """The profile of all added messages; None before the third."""
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
