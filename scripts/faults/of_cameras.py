"""Faults of cameras: wrong behaviour of a stream's server, and wrong bytes."""

import signal

from faults.kinds import Counts, Fault, Outcome, impairment, outage
from faults.rig import Rig

_OUTAGES = {
    "stream goes silent": "silent",
    "half a frame, then nothing": "half",
    "frozen picture": "frozen",
    "garbage bytes": "garbage",
    "empty frames": "empty",
    "pictures cut in half": "cut",
    "a byte at a time": "drip",
    "connection reset": "reset",
    "server answers 500": "refuse",
}
"""The server's mode of each."""
_IMPAIRMENTS = {
    "garbage between good frames": "mixed",
    "frames of a wrong length": "lying",
    "one picture in three is cut": "damaged",
    "pictures partly overwritten": "overwritten",
    "pictures that miss a packet": "holed",
    "size change in flight": "small",
}
_H264_IMPAIRMENTS = ("H.264 lost", "H.264 cut", "H.264 overwritten")


def _outage(name: str, mode: str, lasts_s: float = 2.0, camera: str = "stream") -> Fault:
    def inject(setup: Rig, counts: Counts) -> Outcome:
        stream = setup.stream
        return outage(
            name, setup, lambda: stream.mode(mode), lambda: stream.mode("good"), lasts_s, camera
        )

    return inject


def _impairment(name: str, mode: str, camera: str) -> Fault:
    def inject(setup: Rig, counts: Counts) -> Outcome:
        stream = setup.stream
        return impairment(
            name, setup, lambda: stream.mode(mode), lambda: stream.mode("good"), camera
        )

    return inject


def _stop_server(setup: Rig, counts: Counts) -> Outcome:
    stream = setup.stream
    return outage(
        "SIGSTOP of the stream server", setup, lambda: stream.signal(signal.SIGSTOP),
        lambda: stream.signal(signal.SIGCONT), 2.0,
    )  # fmt: skip


def _kill_server(setup: Rig, counts: Counts) -> Outcome:
    return outage("SIGKILL of the stream server", setup, setup.stream.kill, setup.stream.start, 2.0)


_LONG_FREEZE = "frozen picture, long enough to reopen"
KINDS: dict[str, Fault] = {
    **{name: _outage(name, mode) for name, mode in _OUTAGES.items()},
    _LONG_FREEZE: _outage(_LONG_FREEZE, "frozen", 7.0),
    "SIGSTOP of the stream server": _stop_server,
    "SIGKILL of the stream server": _kill_server,
    **{name: _impairment(name, mode, "stream") for name, mode in _IMPAIRMENTS.items()},
    **{
        f"{mode}, one picture in twenty": _impairment(
            f"{mode}, one picture in twenty", mode, "coded"
        )
        for mode in _H264_IMPAIRMENTS
    },
    "H.264 goes silent": _outage("H.264 goes silent", "silent", camera="coded"),
}
"""Each kind by its name, in the order of the campaign."""
