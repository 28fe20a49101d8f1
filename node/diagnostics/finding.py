"""Finding: the result of one check of the doctor."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    what: str
    """Subject of the check."""
    verdict: Verdict
    found: str
    """State of the subject, in words."""
    fix: str | None = None
    """The remedy; None where nothing needs one."""
