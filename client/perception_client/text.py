"""Text for people. Names of files, of classes and of other nodes, and what servers send, can hold
sequences that move the cursor, change a title or hide a line: `printable` writes them out."""

import re

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters but for the tab, among them the 8-bit ones that some terminals obey; what
changes the direction of writing; what ends a line; halves of characters."""


def printable(text: str) -> str:
    """One line, its control characters written out as in Python (`\\x1b`)."""
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def printable_lines(text: str) -> str:
    """The same for a text that has lines."""
    return "\n".join(printable(line) for line in text.split("\n"))


def printable_json(text: str) -> str:
    """JSON that says the same without any of them: `json.dumps` writes out only those below 0x20,
    which is also where JSON's own line ends are."""
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def duration(value_s: float, digits: str = "g") -> str:
    """A duration in the unit that a person would choose: `2.5 s`, `17 min`, `12 days`.

    digits: format of a number of seconds.
    """
    if value_s < 120:
        return f"{value_s:{digits}} s"
    for unit_s, most, unit in ((60, 120, "min"), (3600, 48, "h"), (86400, 730, "days")):
        if value_s < most * unit_s:
            return f"{value_s / unit_s:.0f} {unit}"
    years = value_s / (365.25 * 86400)
    return f"{years:.0f} years" if years < 1000 else "ever"
