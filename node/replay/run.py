"""run_replay: labels every frame of a replay source once, in order, the same every time."""

import threading

from node.capture.mailbox import LosslessMailbox
from node.capture.rate import MediaClock
from node.config.schema import DegradeConfig, NodeConfig
from node.pipeline.active_model import Builder
from node.pipeline.inference_loop import InferenceLoop
from node.pipeline.message_builder import MessageBuilder
from node.pipeline.threads import Outcome, run_threads
from node.replay.feeder import LockStep, ReplayFeeder
from node.replay.sources import ReplaySource, looped
from node.transport.sequencing import Sink


def run_replay(
    config: NodeConfig,
    build: Builder,
    message_builder: MessageBuilder,
    sink: Sink,
    stop: threading.Event,
    replay_source: ReplaySource,
    *,
    speed: float | None,
    loop: bool = False,
    stepper: LockStep | None = None,
) -> Outcome:
    """Labels the frames of a source one by one, in the order of their capture; no result depends on
    how long the inference takes.

    Args:
        config: with a camera for each of the source's.
        build: loads the model.
        message_builder: makes the messages of this run.
        sink: receives the messages.
        stop: ends the replay.
        replay_source: its frames.
        speed: a multiple of the source's own rate; None for full speed.
        loop: starts again at the end, until `stop`.
        stepper: releases each frame; None without lock step.

    Raises PerceptionError as `run_live` does, and whatever the sink's observer raised.
    """
    mailbox = LosslessMailbox(stop)
    frames = looped(replay_source.frames) if loop else replay_source.frames()
    clock = None if speed is None else MediaClock(speed, stop)
    steady = config.model_copy(update={"degrade": DegradeConfig()})
    inference_loop = InferenceLoop(steady, build, mailbox, message_builder, sink, stop)
    feeder = ReplayFeeder(frames, mailbox, stop, clock, stepper, inference_loop.prefetch)
    stopped = run_threads(inference_loop, [feeder], stop, each_tick=lambda ready: None)
    return Outcome(
        frames=inference_loop.frames,
        dropped=mailbox.dropped_ever,
        summaries=replay_source.summary(),
        stopped=stopped,
        skipped=() if replay_source.skipped is None else (replay_source.skipped,),
    )
