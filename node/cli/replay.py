"""`perception-node replay`: labels a recording without dropping a frame."""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.cli.jsonl import json_lines
from node.cli.options import (
    CONFIG,
    ENDPOINT,
    MODEL,
    MOST_S,
    RUNTIME,
    SETTINGS,
    Number,
    together,
)
from node.cli.recordings import CAMERAS, RUN, opened
from node.cli.replay_model import Options, ReplayModel, with_recorded
from node.cli.standard_streams import ReaderGoneError
from node.cli.stopping import stoppable
from node.cli.verdict import print_verdict
from node.config.redact import redacted
from node.config.schema import NodeConfig
from node.errors import ConfigError, PerceptionError
from node.replay.golden import Comparison, read_golden
from perception_client.control import DEFAULT_CONTROL_ENDPOINT
from perception_client.messages.codec import to_json, to_map
from perception_client.messages.kinds import LabelsMessage, Message

if TYPE_CHECKING:
    from node.pipeline.threads import Outcome
    from node.recording.in_force import InForce
    from node.replay.feeder import LockStep
    from node.replay.sources import ReplaySource
    from node.transport.control_server import ControlServer
    from node.transport.publisher import Publisher
    from node.transport.sequencing import LocalSink

log = logging.getLogger(__name__)


class _Speed(click.ParamType[float | None]):
    name = "speed"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | None:
        if value == "max":
            return None
        try:
            speed = float(str(value))
        except ValueError:
            speed = 0.0
        if not 0.001 <= speed <= 1000:
            self.fail(f"{value!r} is neither 'max' nor a number from 0.001 to 1000", param, ctx)
        return speed


def _gate(replay: Callable[..., None]) -> Callable[..., None]:
    """With --expect, turns a signal's exit code 0 into an error: 0 would mean "as expected"."""

    @functools.wraps(replay)
    def gated(*, expect: Path | None, **options: object) -> None:
        try:
            replay(expect=expect, **options)
        except (SystemExit, ReaderGoneError) as ended:
            if expect is None or (isinstance(ended, SystemExit) and ended.code):
                raise
            raise PerceptionError(f"stopped before the comparison with {expect}") from None

    return gated


@click.command("replay")
@click.argument("source", metavar="SRC")
@together(CONFIG, MODEL, RUNTIME, ENDPOINT, SETTINGS)
@click.option(
    "--speed", type=_Speed(), default="1.0", show_default=True, metavar="X",
    help="A multiple of the recording's own rate, or max.",
)  # fmt: skip
@click.option("--from", "start", type=Number(0, MOST_S), default=0.0, metavar="S",
              help="Start at this position, in seconds.")  # fmt: skip
@click.option("--to", "end", type=Number(0, MOST_S), metavar="S",
              help="End before this position, in seconds.")  # fmt: skip
@click.option("--loop", is_flag=True, help="Start again at the end, until stopped.")
@RUN
@CAMERAS
@click.option(
    "--as-recorded", is_flag=True,
    help="Label only the frames that were labelled in the original run: the same drops.",
)  # fmt: skip
@click.option(
    "--step", is_flag=True,
    help="Label one frame for each request of a simulator (ctl step, "
    "perception_client.Control.step).",
)  # fmt: skip
@click.option("--jsonl", metavar="FILE", help="Write one message a line; - is stdout.")
@click.option(
    "--expect", type=click.Path(path_type=Path), metavar="FILE",
    help="Compare with an earlier --jsonl file; exit 1 on a difference.",
)  # fmt: skip
@click.option(
    "--tolerance", type=Number(0, 1), default=0.0, metavar="T",
    help="With --expect: allowed difference of scores, and of box overlaps (IoU) from 1.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="With --expect: differences as JSON.")
@click.option(
    "--wait-for-subscriber", is_flag=True, help="Start when a subscriber joins the endpoint."
)
@_gate
def command(
    source: str,
    config_file: Path | None,
    model: str | None,
    runtime: str | None,
    endpoint: str | None,
    settings: tuple[str, ...],
    speed: float | None,
    start: float,
    end: float | None,
    loop: bool,
    run: str | None,
    cameras: tuple[str, ...],
    as_recorded: bool,
    step: bool,
    jsonl: str | None,
    expect: Path | None,
    tolerance: float,
    as_json: bool,
    wait_for_subscriber: bool,
) -> None:
    """Label every frame of a recording, video or folder of pictures once, in order.

    SRC is an MCAP file or a folder of MCAP files (`perception-node record`), a video, or pictures.
    A recording is labelled with its own model and settings, unless the options name others.
    Publishes as `run` does; with --jsonl or --expect only if --endpoint is given.

    Example: perception-node replay drive.mcap --speed max --jsonl labels.jsonl
    """
    from perception_client.recordings.runs import find_recording

    options = Options(config_file, settings, model, runtime, endpoint)
    is_recording = find_recording(source) is not None
    if is_recording:
        options.before_the_recording()
    else:
        config = options.configured(source=source)
    golden = read_golden(expect) if expect else None
    if (tolerance or as_json) and golden is None:
        raise ConfigError("--tolerance and --json need --expect FILE")
    publishes = endpoint is not None or (jsonl is None and expect is None)
    selection = _Selection(start, end, as_recorded, run, cameras)
    playback = _Playback(speed, loop, step, publishes, wait_for_subscriber)
    _check(selection, playback, is_compared=golden is not None)
    replayed = (
        _from_recording(options, source, selection)
        if is_recording
        else _from_file(config, source, selection)
    )
    comparison = Comparison(golden, tolerance) if golden is not None else None
    replay_model = ReplayModel(replayed.recording, replayed.recorded, options, golden, expect)
    outcome = _replay(replayed, replay_model, playback, jsonl, comparison)
    if comparison is not None:
        _print_comparison(comparison, outcome, as_json=as_json)
    outcome.check()


@dataclass(frozen=True, slots=True)
class _Selection:
    """Which frames of a source are replayed. start_s, end_s: position in the source; end_s None:
    to its end. run, cameras: of a recording; None and empty for the newest and for all."""

    start_s: float
    end_s: float | None
    as_recorded: bool
    run: str | None = None
    cameras: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Playback:
    """How the frames are replayed. speed: a multiple of the recorded rate, None without a limit.
    publishes: on the endpoint of the configuration."""

    speed: float | None
    loop: bool
    step: bool
    publishes: bool
    wait_for_subscriber: bool


def _check(selection: _Selection, playback: _Playback, *, is_compared: bool) -> None:
    """Raises ConfigError for options that contradict each other."""
    if selection.end_s is not None and selection.end_s <= selection.start_s:
        raise ConfigError(f"--to {selection.end_s:g} is not after --from {selection.start_s:g}")
    if playback.loop and is_compared:
        raise ConfigError("--loop has no end, and --expect needs one", fix="leave one of them out")
    if playback.wait_for_subscriber and not playback.publishes:
        raise ConfigError("--wait-for-subscriber needs --endpoint: nothing is published here")


@dataclass(frozen=True, slots=True)
class _Replayed:
    """A source and its configuration. recording: the name of a recording, and recorded: what it was
    made with; None for anything else."""

    config: NodeConfig
    source: "ReplaySource"
    recording: str | None = None
    recorded: "InForce | None" = None


def _from_recording(options: Options, source: str, selection: _Selection) -> _Replayed:
    from node.recording.in_force import in_force
    from node.replay.sources import RecordingReplay, Span

    recording = opened(source, selection.run, selection.cameras)
    span = Span(selection.start_s, selection.end_s)
    replay_source = RecordingReplay(recording, span, as_recorded=selection.as_recorded)
    name = redacted(source)
    log.info("%s: %.1f s of %s", name, recording.length_s, ", ".join(recording.cameras))
    recorded = in_force(recording, replay_source.start_ns)
    config = with_recorded(options, recorded, recording.cameras)
    return _Replayed(config, replay_source, name, recorded)


def _from_file(config: NodeConfig, source: str, selection: _Selection) -> _Replayed:
    from node.capture.sources.open import check_source, is_live
    from node.replay.sources import FileReplay, Span

    if is_live(source) or source == "demo":
        raise ConfigError(
            "replay reads sources that have an end",
            fix=f"label {redacted(source)} with 'perception-node run --source SRC'",
        )
    camera = config.camera[0]
    for option, is_given in (
        ("--as-recorded", selection.as_recorded),
        ("--run", selection.run is not None),
        ("--camera", bool(selection.cameras)),
    ):
        if is_given:
            raise ConfigError(
                f"{option}: {redacted(source)} is no recording", fix="give a file *.mcap"
            )
    if camera.loop:
        raise ConfigError(
            f"camera.{camera.name}.loop = true: a replay ends, unless it is given --loop"
        )
    check_source(camera)
    return _Replayed(config, FileReplay(camera, Span(selection.start_s, selection.end_s)))


def _replay(
    replayed: _Replayed,
    replay_model: ReplayModel,
    playback: _Playback,
    jsonl: str | None,
    comparison: Comparison | None,
) -> "Outcome":
    """Labels the source; what was opened for that is closed whatever ends the replay."""
    from node.pipeline.message_builder import MessageBuilder
    from node.process.descriptors import raise_descriptor_limit
    from node.process.ending import Ending
    from node.replay.feeder import LockStep
    from node.replay.run import run_replay
    from node.transport.publisher import Publisher

    raise_descriptor_limit()
    config = replayed.config
    stepper = LockStep() if playback.step else None
    with json_lines(jsonl) as write, stoppable() as stop:

        def observe(message: Message) -> None:
            if isinstance(message, LabelsMessage):
                write(to_json(message))
                if comparison is not None:
                    comparison.add(to_map(message))
            if stepper is not None:
                stepper.note(message)

        sink = _sink(config, observe, publishes=playback.publishes)
        with Ending() as ending:
            ending.add("publisher", sink.close)
            if stepper is not None:
                ending.add("control socket", _step_server(config, stepper).close)
            if isinstance(sink, Publisher) and playback.wait_for_subscriber:
                sink.wait_for_subscriber(stop)
            outcome = run_replay(
                config,
                replay_model.load,
                MessageBuilder(config.name),
                sink,
                stop,
                replayed.source,
                speed=None if stepper is not None else playback.speed,
                loop=playback.loop,
                stepper=stepper,
            )
            if isinstance(sink, Publisher):
                sink.finish(stop)
    for summary in outcome.summaries:
        log.info("%s", summary)
    return outcome


def _sink(
    config: NodeConfig, observe: Callable[[Message], None], *, publishes: bool
) -> "Publisher | LocalSink":
    from node.transport.publisher import Publisher
    from node.transport.sequencing import LocalSink

    if not publishes:
        return LocalSink(observe)
    publisher = Publisher(
        config.wire.endpoint, lossless=True, observer=observe, keys=config.wire.keys
    )
    log.info("publishing on %s", config.wire.endpoint)
    return publisher


def _step_server(config: NodeConfig, stepper: "LockStep") -> "ControlServer":
    """The control socket on which a simulator requests the next frame."""
    from node.transport.control_server import ControlServer

    endpoint = config.control.endpoint or DEFAULT_CONTROL_ENDPOINT
    server = ControlServer(
        endpoint, stepper.handle, config.wire.keys, insecure=config.wire.insecure
    )
    log.info("accepting step requests on %s", endpoint)
    return server


def _print_comparison(comparison: Comparison, outcome: "Outcome", *, as_json: bool) -> None:
    """Prints the verdict; exit code 1 for a difference, or for a replay that did not end."""
    verdict = comparison.verdict()
    if outcome.stopped:
        log.error(
            "stopped after %d of %d messages: not compared to the end",
            verdict.messages,
            verdict.expected,
        )
        raise SystemExit(1)
    print_verdict(verdict, as_json=as_json)
    if not verdict.same:
        for part in outcome.skipped:
            log.warning("%s", part)
        raise SystemExit(1)
