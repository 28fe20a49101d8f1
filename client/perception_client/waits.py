"""Durations as control code gives them, and waits of that length."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import zmq

from perception_client.errors import ArgumentError, ArgumentTypeError
from perception_client.text import duration

_LONGEST_POLL_S = 3600.0
"""A poll takes milliseconds as a C int; longer waits poll again."""
_LONGEST_SENSIBLE_AGE_S = 60.0
"""A robot that acts on older labels is unheard of; 200 are milliseconds taken for seconds."""
_WARNED: set[str] = set()


def seconds(name: str, value: object) -> float:
    """A duration that a caller gave, in seconds; `math.inf` means no limit.

    name: of the argument, for the error. Raises ArgumentTypeError (a TypeError) for a value that
    is not a number, ArgumentError (a ValueError) for a negative number and for nan.
    """
    try:
        if isinstance(value, str | bytes | bytearray):
            raise TypeError
        number = float(value)  # type: ignore[arg-type]  # what is no number is refused below
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, OverflowError):  # an integer that is longer than any float
            return seconds(name, math.inf if value > 0 else -math.inf)  # type: ignore[operator]
        raise ArgumentTypeError(
            f"{name} is {value!r:.40}", fix="give a number of seconds"
        ) from None
    if not number >= 0:  # nan too
        raise ArgumentError(
            f"{name} is {number:g}", fix="give 0 or more seconds, math.inf for no limit"
        )
    return number


def age_limit(value: object) -> float:
    """`max_age_s` as a caller gave it, in seconds. Raises as `seconds`; warns once in a process
    where the number is so large that milliseconds may have been meant."""
    max_age_s = seconds("max_age_s", value)
    if _LONGEST_SENSIBLE_AGE_S < max_age_s < math.inf and "max_age_s" not in _WARNED:
        _WARNED.add("max_age_s")
        warnings.warn(
            f"max_age_s is {max_age_s:g} seconds: labels that are {duration(max_age_s)} old still "
            f"count as fresh. For milliseconds write {max_age_s / 1000:g}",
            stacklevel=3,
        )
    return max_age_s


def poll(
    socket: "zmq.Socket[Any]", left_s: float, check: Callable[[], None], event: int = zmq.POLLIN
) -> bool:
    """Whether a message can be received (with POLLOUT: sent) within `left_s` seconds, an hour at
    most.

    check: raises ClosedError where a signal handler closed the socket meanwhile.
    """
    try:
        # Socket.poll makes a poller for each call, which costs more than the poll.
        return bool(zmq.zmq_poll([(socket, event)], poll_ms(left_s)))
    except zmq.ZMQError:
        check()
        raise


def poll_ms(left_s: float) -> int:
    """How long one poll may take, in ms, where so much time is left."""
    return int(min(max(left_s, 0.0), _LONGEST_POLL_S) * 1000) + 1
