"""Faults of cameras: wrong behaviour of a stream's server, and wrong bytes."""

import signal

from fault_kinds import Counts, Outcome, fault, impairment, outage
from fault_rig import Rig


def _mode(name: str, mode: str, lasts_s: float = 2.0) -> None:
    @fault(name)
    def work(setup: Rig, counts: Counts) -> Outcome:
        stream = setup.stream
        return outage(name, setup, lambda: stream.mode(mode), lambda: stream.mode("good"), lasts_s)


for _name, _the_mode in {
    "stream goes silent": "silent",
    "half a frame, then nothing": "half",
    "frozen picture": "frozen",
    "garbage bytes": "garbage",
    "empty frames": "empty",
    "pictures cut in half": "cut",
    "a byte at a time": "drip",
    "connection reset": "reset",
    "server answers 500": "refuse",
}.items():
    _mode(_name, _the_mode)


@fault("frozen picture, long enough to reopen")
def _long_freeze(setup: Rig, counts: Counts) -> Outcome:
    stream = setup.stream
    name = "frozen picture, long enough to reopen"
    return outage(name, setup, lambda: stream.mode("frozen"), lambda: stream.mode("good"), 7.0)


@fault("SIGSTOP of the stream server")
def _stop_server(setup: Rig, counts: Counts) -> Outcome:
    stream = setup.stream
    return outage(
        "SIGSTOP of the stream server", setup, lambda: stream.signal(signal.SIGSTOP),
        lambda: stream.signal(signal.SIGCONT), 2.0,
    )  # fmt: skip


@fault("SIGKILL of the stream server")
def _kill_server(setup: Rig, counts: Counts) -> Outcome:
    return outage("SIGKILL of the stream server", setup, setup.stream.kill, setup.stream.start, 2.0)


def _impaired(name: str, mode: str, camera: str) -> None:
    @fault(name)
    def work(setup: Rig, counts: Counts) -> Outcome:
        stream = setup.stream
        return impairment(
            name, setup, lambda: stream.mode(mode), lambda: stream.mode("good"), camera
        )


for _name, _the_mode in {
    "garbage between good frames": "mixed",
    "frames of a wrong length": "lying",
    "one picture in three is cut": "damaged",
    "pictures partly overwritten": "overwritten",
    "pictures that miss a packet": "holed",
    "size change in flight": "small",
}.items():
    _impaired(_name, _the_mode, "stream")
for _name in ("H.264 lost", "H.264 cut", "H.264 overwritten"):
    _impaired(f"{_name}, one picture in twenty", _name, "coded")


@fault("H.264 goes silent")
def _silent_h264(setup: Rig, counts: Counts) -> Outcome:
    stream = setup.stream
    return outage(
        "H.264 goes silent", setup, lambda: stream.mode("silent"), lambda: stream.mode("good"), 2.0,
        "coded",
    )  # fmt: skip
