"""The requests that the buttons of the live page send. A page in a browser is the easiest target of
an attack, so the page accepts these requests and no others."""

from collections.abc import Callable, Mapping
from typing import Any

_Arguments = Mapping[str, Any]

THRESHOLD = "detect.score"
TAKEN = f"status, pause, resume, snapshot of a camera, record start and stop, and {THRESHOLD}"
"""The same in words."""


def is_of_a_button(command: str, arguments: _Arguments) -> bool:
    """Whether a request is one that the page's own script makes."""
    check = _BUTTONS.get(command)
    return check is not None and check(arguments)


def _nothing(arguments: _Arguments) -> bool:
    return not arguments


def _camera(arguments: _Arguments) -> bool:
    return arguments.keys() == {"camera"} and isinstance(arguments["camera"], str)


def _start_or_stop(arguments: _Arguments) -> bool:
    return arguments in ({"action": "start"}, {"action": "stop"})


def _threshold(arguments: _Arguments) -> bool:
    settings = arguments.get("settings")
    if arguments.keys() != {"settings"} or not isinstance(settings, dict):
        return False
    return settings.keys() == {THRESHOLD} and type(settings[THRESHOLD]) in (int, float)


_BUTTONS: Mapping[str, Callable[[_Arguments], bool]] = {
    "status": _nothing,
    "pause": _nothing,
    "resume": _nothing,
    "snapshot": _camera,
    "record": _start_or_stop,
    "set": _threshold,
}
