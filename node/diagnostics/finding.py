"""Finding: one thing that the doctor looked at."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. mend: what to do, None where nothing has to be done."""

    what: str
    verdict: Verdict
    found: str
    mend: str | None = None
