"""Pace: streams that are slow, a node that is stopped, numbers that overflow, requests with one bad
value, and cameras that froze and do not look it."""

import contextlib
import io
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from attack import ROOT, Attack, Budget, Outcome

from node.capture.grabber import Grabber
from node.capture.mailbox import LatestMailbox
from node.capture.sources.open import open_source
from node.cli import command_line
from node.config.schema import CameraConfig
from node.image.frame import Image
from node.image.jpeg import encode_jpeg
from perception_client.subscriber import (
    Control,
    ControlError,
    LabelsMessage,
    NoMessageError,
    Subscriber,
)

PATIENCE_S = 60.0
"""How long a node may take to see, on a computer that is busy."""
STALL_S = 0.25
FPS = 30
SCENE = np.random.default_rng(0).integers(60, 200, (240, 320, 3), np.uint8)
MOST_CHANGES = 2
"""Of a slow stream's status after its first picture: while its first interval is learnt."""
STOPPED_S = 1.5
INFERENCE_S = 0.5


class Stream:
    """Motion JPEG over HTTP, a picture each `period_s`; each reader gets its own from the start."""

    def __init__(self, pictures: Callable[[], Iterator[Image]], period_s: float) -> None:
        closing = self._closing = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                with contextlib.suppress(OSError):
                    for image in pictures():
                        self.wfile.write(_part(image))
                        if closing.wait(period_s):
                            return

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/stream.mjpg"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()


def _part(image: Image) -> bytes:
    jpeg = encode_jpeg(image, 90)
    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
    return head.encode() + jpeg + b"\r\n"


def _grainy() -> Iterator[Image]:
    noise = np.random.default_rng()
    while True:
        yield SCENE + noise.integers(0, 4, SCENE.shape, np.uint8)


@contextlib.contextmanager
def _node(folder: Path, cameras: dict[str, str], model: str = "") -> Iterator[tuple[int, str, str]]:
    """A node of its own: its process number, and where its labels and control are."""
    labels, control = f"ipc://{folder}/labels", f"ipc://{folder}/control"
    config = folder / "node.toml"
    config.write_text(
        f'[wire]\nendpoint = "{labels}"\n[control]\nendpoint = "{control}"\n[model]\n{model}\n'
        + "".join(
            f'[[camera]]\nname = "{name}"\nsource = "{url}"\nstall_timeout_s = {STALL_S}\n'
            for name, url in cameras.items()
        )
    )
    command = [sys.executable, "-m", "node", "run", "--config", str(config)]
    with (folder / "node.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        yield process.pid, labels, control
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)


def _received(subscriber: Subscriber, until_s: float) -> Iterator[LabelsMessage]:
    while (left_s := until_s - time.monotonic()) > 0:
        with contextlib.suppress(NoMessageError):
            message, _ = subscriber.receive(left_s)
            if not message.retained:
                yield message


def slow_streams(budget: Budget) -> Outcome:
    """Streams of one picture a second and fewer that FFmpeg says have 25."""
    rates = (1.0, 0.5, 0.2) if budget.seconds >= 20 else (2.0, 1.0)
    streams = {f"every{1 / rate:g}s": Stream(_grainy, 1 / rate) for rate in rates}
    statuses: dict[str, list[str]] = {name: [] for name in streams}
    try:
        with (
            _node(budget.folder, {name: x.url for name, x in streams.items()}) as (_, labels, _),
            Subscriber(labels) as subscriber,
        ):
            until_s = time.monotonic() + PATIENCE_S
            for message in _received(subscriber, until_s):
                _note(statuses[message.camera], message)
                if all(statuses.values()):
                    break
            for message in _received(subscriber, time.monotonic() + budget.seconds + 2 / rates[-1]):
                _note(statuses[message.camera], message)
    finally:
        for stream in streams.values():
            stream.close()
    changes = {name: len(seen) - 1 for name, seen in statuses.items()}
    wrong = [
        f"camera {name} changed its status {count} times: {', '.join(statuses[name])}"
        for name, count in changes.items()
        if count > MOST_CHANGES
    ]
    wrong += [f"camera {name} was never seen" for name, seen in statuses.items() if not seen]
    return Outcome(
        f"streams of {', '.join(f'{rate:g}' for rate in rates)} pictures a second",
        tuple(wrong),
        {f"changes_{name}": float(count) for name, count in changes.items()},
    )


def _note(seen: list[str], message: LabelsMessage) -> None:
    """Every change of a camera's status from the first picture on."""
    if (seen or message.status == "ok") and seen[-1:] != [message.status]:
        seen.append(str(message.status))


def stopped_node(budget: Budget) -> Outcome:
    """SIGSTOP for longer than a model may take, and requests with one bad value."""
    stream = Stream(_grainy, 1 / FPS)
    times = max(1, round(budget.seconds / 3))
    wrong: list[str] = []
    figures: dict[str, float] = {"times": float(times)}
    model = f"inference_timeout_s = {INFERENCE_S}"
    try:
        with (
            _node(budget.folder, {"cam": stream.url}, model) as (pid, labels, control),
            Subscriber(labels) as subscriber,
        ):
            subscriber.require(1.0, timeout_s=PATIENCE_S)
            wrong += _requests_in_part(control)
            for _ in range(times):
                back_s = _stop_and_go(pid, subscriber, wrong)
                figures["seconds_to_see_again"] = max(
                    figures.get("seconds_to_see_again", 0.0), back_s
                )
    except Exception as error:
        log = (budget.folder / "node.log").read_text()[-300:]
        wrong.append(f"{type(error).__name__}: {error}; the log's end: {log}")
    finally:
        stream.close()
    return Outcome(
        f"SIGSTOP of {STOPPED_S:g} s where a model may take {INFERENCE_S:g} s, and "
        f"{len(BAD_VALUES)} requests with one bad value of three",
        tuple(wrong),
        figures,
    )


def _stop_and_go(pid: int, subscriber: Subscriber, wrong: list[str]) -> float:
    """How long it took until the node saw again, in seconds."""
    os.kill(pid, signal.SIGSTOP)
    time.sleep(STOPPED_S)  # how long it is stopped
    resumed_ns = time.monotonic_ns()
    os.kill(pid, signal.SIGCONT)
    opened_anew = False
    for message in _received(subscriber, time.monotonic() + PATIENCE_S):
        opened_anew |= message.status == "no_camera"
        if message.stamp_mono_ns is not None and message.stamp_mono_ns > resumed_ns:
            if not opened_anew:
                wrong.append("a picture of before the stop may have a stamp of after it")
            return (time.monotonic_ns() - resumed_ns) / 1e9
    raise TimeoutError("the node did not see again")


BAD_VALUES: tuple[dict[str, object], ...] = (
    {"camera.cam.max_fps": 1e-300},
    {"camera.cam.max_fps": float("nan")},
    {"camera.other.max_fps": 5.0},
    {"detect.score": 1e308},
    {"smooth.leave": 0.9},
    {"smooth.time_constant_s": True},
    {"detect.min_box_px": 2**62},
    {"wire.endpoint": "tcp://*:1"},
)


def _requests_in_part(endpoint: str) -> list[str]:
    wrong = []
    good: dict[str, object] = {"model.top_k": 2, "camera.cam.max_fps": 20.0}
    with Control(endpoint, timeout_s=PATIENCE_S) as control:
        before = control.status()["settings"]
        for bad in BAD_VALUES:
            try:
                control.set({**good, **bad})
                wrong.append(f"{bad} was taken")
            except ControlError as error:
                if "\n" in str(error) or "Error:" in str(error):
                    wrong.append(f"{bad}: {error}")
            if control.status()["settings"] != before:
                wrong.append(f"of a request with {bad} the rest was carried out")
                break
    return wrong


OVERFLOWING = (
    "camera.0.max_fps=1e-300", "camera.0.fps=5e-324", "camera.0.stall_timeout_s=inf",
    "camera.0.deadline_s=1e-300", "detect.min_box_px=1e308", "model.top_k=0x" + "f" * 5000,
    "model.inference_timeout_s=nan", "recording.split_s=1e308", "monitor.picture_fps=1e-300",
    "camera.0.roi=[[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]]",
    "camera.0.roi=[[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]",
)  # fmt: skip


def overflowing_numbers(budget: Budget) -> Outcome:
    """Numbers that no clock and no timer can hold, at the start of a node; the first in a process
    of its own."""
    file = budget.folder / "node.toml"
    wrong = []
    for index, setting in enumerate(OVERFLOWING):
        file.write_text(_as_toml(setting))
        code, stderr = _run_apart(file) if index == 0 else _run_here(file)
        if code != 2 or "\n" in stderr.strip() or "Traceback" in stderr:
            wrong.append(f"{setting:.60}: exit code {code}: {stderr[-200:]}")
    return Outcome(
        f"{len(OVERFLOWING)} numbers and polygons", tuple(wrong), {"taken": float(len(wrong))}
    )


def _run_apart(config: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "node", "run", "--config", str(config)],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    return done.returncode, done.stderr


def _run_here(config: Path) -> tuple[int, str]:
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        code = command_line(["run", "--config", str(config)])
    return code, stderr.getvalue()


def _as_toml(setting: str) -> str:
    key, _, value = setting.partition("=")
    section, _, name = key.rpartition(".")
    return f"[{'[camera]' if section == 'camera.0' else section}]\n{name} = {value}\n"


def _in_turn(buffers: int) -> Callable[[], Iterator[Image]]:
    kept = list(itertools.islice(_grainy(), buffers))
    return lambda: itertools.cycle(kept)


def _clocked() -> Iterator[Image]:
    """A scene at rest with noise for a while, then one picture of it, with a clock burnt in."""
    noisy = list(itertools.islice(_grainy(), 20))
    for number in itertools.count():
        image = noisy[number % len(noisy) if number < LIVE_PICTURES else 0].copy()
        image[:12, :80] = number % 250
        yield image


FAST_FPS = 200
LIVE_PICTURES = 550
"""Of the camera with a clock: the first second is passed over, then noise is learnt in 300."""


def disguised_freezes(budget: Budget) -> Outcome:
    """Cameras that froze: one picture, the buffers of a driver in turn, a clock over a picture."""
    cases = {
        "one_picture": (_in_turn(1), 1 / FPS),
        "two_buffers": (_in_turn(2), 1 / FPS),
        "three_buffers": (_in_turn(3), 1 / FPS),
        "a_clock": (_clocked, 1 / FAST_FPS),
    }
    wrong, figures = [], {}
    within_s = (budget.seconds + 10) * budget.patience
    for name, (pictures, period_s) in cases.items():
        stalled_s = _time_to_stall(pictures, period_s, within_s)
        figures[f"{name}_stalled_after_s"] = stalled_s
        if stalled_s >= within_s:
            wrong.append(f"{name}: not found")
    return Outcome(f"cameras that froze in {len(cases)} ways", tuple(wrong), figures)


def _time_to_stall(
    pictures: Callable[[], Iterator[Image]], period_s: float, within_s: float
) -> float:
    stream, stop = Stream(pictures, period_s), threading.Event()
    config = CameraConfig(name="cam", source=stream.url, stall_timeout_s=STALL_S)
    grabber = Grabber(
        config, lambda: open_source(config), LatestMailbox(["cam"]), stop, retry_first=True
    )
    grabber.start()
    began_s = time.monotonic()
    try:
        while (now_s := time.monotonic()) - began_s < within_s:
            state = grabber.state
            if state.repeated > 3 and (grabber.silent_s or 0.0) > grabber.stall_after_s:
                return now_s - began_s
            stop.wait(0.01)
        return within_s
    finally:
        stop.set()
        grabber.join(1.0)
        stream.close()


ATTACKS = (
    Attack("slow streams", slow_streams),
    Attack("a stopped node and requests in part", stopped_node),
    Attack("numbers that overflow", overflowing_numbers),
    Attack("disguised freezes", disguised_freezes),
)
