"""Waiting for a condition with a deadline, instead of sleeping."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    """Returns once the condition holds; AssertionError after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s"
        time.sleep(0.005)
