"""`perception-node watch`: prints the labels that a node publishes."""

import logging
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table

from node.cli.options import Number, set_up_logging
from node.cli.seen import Thing, figure, named, share, things_in
from node.cli.standard_streams import print_line
from node.errors import PerceptionError
from perception_client.inbox import ALIVE_S
from perception_client.messages.codec import to_json
from perception_client.messages.kinds import (
    DEFAULT_ENDPOINT,
    HealthMessage,
    LabelsMessage,
    Status,
)
from perception_client.subscriber import Gap, NoMessageError, Subscriber
from perception_client.text import printable

log = logging.getLogger(__name__)

POLL_S = 0.1
_RATE_OVER = 30


@click.command("watch")
@click.option("--endpoint", default=DEFAULT_ENDPOINT, show_default=True, metavar="EP")
@click.option("--camera", metavar="NAME", help="Only this camera.")
@click.option(
    "--keys", type=click.Path(path_type=Path), metavar="FOLDER",
    help="This client's folder of keys, if the node requires keys.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="Stop after N messages.")
@click.option(
    "--timeout", "timeout_s", type=Number(0, min_open=True, for_ever=True), metavar="S",
    help="Exit 1 when no message arrives for S seconds.",
)  # fmt: skip
def command(
    endpoint: str,
    camera: str | None,
    keys: Path | None,
    as_json: bool,
    count: int | None,
    timeout_s: float | None,
) -> None:
    """Print the labels that a node publishes: a live table on a terminal, else lines.

    Example: perception-node watch --json --count 10
    """
    set_up_logging("warning")
    received = 0
    with Subscriber(endpoint, camera, keys=keys) as subscriber, _view(as_json) as view:
        heard = time.monotonic()
        logged: str | None = None
        while count is None or received < count:
            try:
                message, gap = subscriber.receive(POLL_S)
            except NoMessageError as error:
                view.quiet(subscriber)
                if error.refusal is not None and error.refusal != logged:
                    logged = error.refusal
                    log.warning("%s", error)  # and waits: the node may restart with other keys
                if timeout_s is not None and time.monotonic() - heard >= timeout_s:
                    why = _why(subscriber, endpoint, camera, timeout_s)
                    raise _Silent(why if error.refusal is None else str(error)) from None
                continue
            heard = time.monotonic()
            received += 1
            view.show(message, gap, subscriber)


class _Silent(PerceptionError):
    """No message arrived in time."""


def _why(subscriber: Subscriber, endpoint: str, camera: str | None, timeout_s: float) -> str:
    if subscriber.rejected:
        return (
            f"{endpoint}: nothing readable for {timeout_s:g} s; {subscriber.rejected} messages "
            f"skipped, the newest because: {subscriber.last_rejection}"
        )
    if camera is not None:
        return (
            f"{endpoint}: no message of camera {camera!r} for {timeout_s:g} s; has the node a "
            "camera of this name, and is the node running, on this endpoint?"
        )
    return f"{endpoint}: no message for {timeout_s:g} s; is the node running, on this endpoint?"


class _Lines:
    """Prints one line a message on stdout."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def show(self, message: LabelsMessage, gap: Gap, subscriber: Subscriber) -> None:
        if self._as_json:
            print_line(to_json(message))
            return
        reason = _reason(message, subscriber.newest_health)
        print_line(printable(f"{_plain(message)}{f': {reason}' if reason else ''}{_missing(gap)}"))

    def quiet(self, subscriber: Subscriber) -> None:
        pass


class _Cameras:
    """A table that is redrawn in place, one row a camera."""

    def __init__(self) -> None:
        self._live = Live(console=Console(), auto_refresh=False)
        self._newest: dict[str, LabelsMessage] = {}
        self._arrivals: dict[str, deque[float]] = {}
        self._lost: dict[str, int] = {}
        self._dropped: dict[str, int] = {}
        self._drawn = 0.0

    def __enter__(self) -> "_Cameras":
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.__exit__(None, None, None)

    def show(self, message: LabelsMessage, gap: Gap, subscriber: Subscriber) -> None:
        camera = message.camera
        self._newest[camera] = message
        self._arrivals.setdefault(camera, deque(maxlen=_RATE_OVER)).append(time.monotonic())
        self._lost[camera] = self._lost.get(camera, 0) + gap.lost
        self._dropped[camera] = self._dropped.get(camera, 0) + gap.dropped
        self.quiet(subscriber)

    def quiet(self, subscriber: Subscriber) -> None:
        if time.monotonic() - self._drawn >= POLL_S:
            self._drawn = time.monotonic()
            self._live.update(self._table(subscriber), refresh=True)

    def _table(self, subscriber: Subscriber) -> Table:
        health = subscriber.newest_health
        table = Table(
            Column("camera", style="bold"),
            "status",
            Column("seen", min_width=34),
            Column("age", justify="right", min_width=8),
            Column("a second", justify="right"),
            Column("dropped", justify="right"),
            Column("lost", justify="right"),
            box=SIMPLE_HEAD,
            title=_title(self._newest, health),
            title_justify="left",
            caption=_caption(health),
            caption_justify="left",
        )
        for camera, message in sorted(self._newest.items()):
            table.add_row(
                _safe(camera),
                _status(message),
                f"[dim]{_safe(_reason(message, health))}[/]"
                if message.status is not Status.OK
                else "\n".join(f"{_bar(thing)} {_safe(named(thing))}" for thing in _best(message)),
                _age(message),
                f"{self._rate(camera):.1f}",
                str(self._dropped[camera]),
                str(self._lost[camera]),
            )
        return table

    def _rate(self, camera: str) -> float:
        arrivals = self._arrivals[camera]
        span_s = time.monotonic() - arrivals[0]
        return (len(arrivals) - 1) / span_s if len(arrivals) > 1 and span_s > 0 else 0.0


def _view(as_json: bool) -> _Lines | _Cameras:
    return _Cameras() if sys.stdout.isatty() and not as_json else _Lines(as_json)


def _plain(message: LabelsMessage) -> str:
    age = f"{message.age_bound_s * 1000:5.0f} ms"
    if message.status is not Status.OK:
        return f"{message.camera}  {age}  {message.status}"
    seen = ", ".join(f"{named(thing)} {figure(thing, 2)}" for thing in _best(message))
    return f"{message.camera}  {age}  {seen or 'nothing seen'}"


def _reason(message: LabelsMessage, health: HealthMessage | None) -> str:
    """Why a camera sees nothing, as the node's newest health message has it; empty if unknown."""
    if message.status is Status.OK or health is None:
        return ""
    errors = [camera.last_error for camera in health.cameras if camera.camera == message.camera]
    return next((error for error in errors if error), "")


def _best(message: LabelsMessage) -> tuple[Thing, ...]:
    return things_in(message, labels=3)[:5]


def _missing(gap: Gap) -> str:
    parts = [
        f"{gap.dropped} dropped" if gap.dropped else "",
        f"{gap.lost} lost" if gap.lost else "",
        "node restarted" if gap.restarted else "",
    ]
    missing = ", ".join(part for part in parts if part)
    return f"  ({missing})" if missing else ""


def _title(newest: Mapping[str, LabelsMessage], health: HealthMessage | None) -> str:
    if not newest:
        return "[dim]waiting for the first message[/]"
    youngest = min(newest.values(), key=lambda message: message.age_s)
    if youngest.age_s > ALIVE_S:
        return f"[bold red]▲ nothing from the node for {youngest.age_s:.0f} s[/]"
    state = health.state if health is not None else "running"
    mark = {"running": "[green]●", "degraded": "[yellow]■", "stalled": "[red]▲"}.get(
        state, "[dim]○"
    )
    model = youngest.model
    running = f"{model.name}, {model.runtime} {model.precision}" if model is not None else ""
    return f"[bold]{_safe(youngest.node)}[/]  {mark} {_safe(state)}[/]  [dim]{_safe(running)}[/]"


def _caption(health: HealthMessage | None) -> str:
    if health is None:
        return ""
    latency = health.latency_ns
    parts = [
        f"latency {latency.p50 / 1e6:.1f} ms, 99 % {latency.p99 / 1e6:.1f}" if latency else "",
        f"cpu {health.cpu:.0%}",
        "memory unknown" if health.rss_bytes is None else f"{health.rss_bytes / 2**20:.0f} MiB",
        _safe(f"recording {health.recording.file}")
        if health.recording is not None and health.recording.state == "recording"
        else "",
        *(_safe(reason) for reason in health.degraded),
        _safe(health.last_error or ""),
    ]
    return "[dim]" + "  ·  ".join(part for part in parts if part) + "[/]"


def _safe(text: str) -> str:
    """Text of another node for a table, with control characters and markup escaped."""
    return escape(printable(text))


def _age(message: LabelsMessage) -> str:
    age_s = message.age_bound_s
    text = f"{age_s * 1000:.0f} ms" if age_s < 10 else f"{age_s:.0f} s"
    late = message.late or age_s > ALIVE_S
    return f"[red]{text}[/]" if late else text


def _status(message: LabelsMessage) -> str:
    mark = {
        Status.OK: "[green]● seeing[/]",
        Status.PAUSED: "[yellow]■ paused[/]",
        Status.NO_CAMERA: "[red]▲ no camera[/]",
        Status.STALLED: "[red]▲ stalled[/]",
    }
    return mark[message.status]


def _bar(thing: Thing) -> str:
    filled = round(share(thing) * 10)
    return f"[blue]{'━' * filled}[/][dim]{'─' * (10 - filled)}[/] {figure(thing, 2)}"
