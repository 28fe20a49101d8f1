"""Durations as control code gives them. Needs the standard library only."""

import math

_LONGEST_POLL_S = 3600.0
"""A poll takes milliseconds as a C int; whoever waits longer polls again."""


def seconds(name: str, value: object) -> float:
    """A duration that a caller gave, in seconds; `math.inf` is for ever.

    name: of the argument, for the error. Raises TypeError for what is no number, ValueError for
    what is less than 0 or not a number (nan).
    """
    try:
        if isinstance(value, str | bytes | bytearray):
            raise TypeError
        number = float(value)  # type: ignore[arg-type]  # what is no number is refused below
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, OverflowError):  # an integer that is longer than any float
            return seconds(name, math.inf if value > 0 else -math.inf)  # type: ignore[operator]
        raise TypeError(f"{name} is {value!r:.40}; give a number of seconds") from None
    if not number >= 0:  # nan too
        raise ValueError(f"{name} is {number:g}; give 0 or more seconds, math.inf for no limit")
    return number


def poll_ms(left_s: float) -> int:
    """How long one poll may take, in ms, where so much time is left."""
    return int(min(max(left_s, 0.0), _LONGEST_POLL_S) * 1000) + 1
