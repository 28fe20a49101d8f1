"""Finding: one thing that the doctor looked at."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. fix: what to do; None where nothing needs fixing."""

    what: str
    verdict: Verdict
    found: str
    fix: str | None = None
