"""Attack and Outcome: what every theme of the hostile campaign shares."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one attack.

    tried: what was done, in one clause with its counts.
    wrong: what did not hold, one sentence each; empty when the node held.
    figures: what was measured, by name; the name ends in its unit (`silence_s`, `grown_mib`).
    """

    tried: str
    wrong: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Budget:
    """How long one attack may last.

    seconds: duration of an attack that can go on for any time; an attack that has an end of its own
    ignores it.
    folder: an empty folder of this attack alone.
    """

    seconds: float
    folder: Path

    @property
    def patience(self) -> float:
        """Factor on bounds of time. A run of less than 5 s is the test suite's, which runs other
        tests on the same cores; only a longer one measures."""
        return 1.0 if self.seconds >= 5 else 5.0


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack of the campaign. `run` uses real sockets, files and processes, and stops by
    itself."""

    name: str
    run: Callable[[Budget], Outcome]
