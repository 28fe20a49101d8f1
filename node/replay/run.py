"""run_replay: labels every frame of footage once, in order, the same every time."""

import threading

from node.capture.mailbox import EveryMailbox
from node.capture.rate import MediaClock
from node.config.schema import DegradeConfig, NodeConfig
from node.pipeline.active_model import Builder
from node.pipeline.inference_loop import Labeller
from node.pipeline.live import Outcome, run_threads
from node.pipeline.message_builder import Composer
from node.replay.feeder import Player, Stepper
from node.replay.sources import Footage, looped
from node.transport.sequencing import Sink


def run_replay(
    config: NodeConfig,
    build: Builder,
    composer: Composer,
    sink: Sink,
    stop: threading.Event,
    footage: Footage,
    *,
    speed: float | None,
    loop: bool = False,
    stepper: Stepper | None = None,
) -> Outcome:
    """Labels footage; `config` has a camera for each of its.

    speed: a multiple of the footage's own time, None for as fast as it goes. stepper: frames come
    when it lets them. Frames are looked at one by one, in the order in which they were captured,
    and nothing depends on how long that takes.

    Raises PerceptionError as `run_live` does, and whatever the sink's observer raised.
    """
    mailbox = EveryMailbox(stop)
    frames = looped(footage.frames) if loop else footage.frames()
    clock = None if speed is None else MediaClock(speed, stop)
    steady = config.model_copy(update={"degrade": DegradeConfig()})
    labeller = Labeller(steady, build, mailbox, composer, sink, stop)
    player = Player(frames, mailbox, stop, clock, stepper, labeller.make_ready)
    stopped = run_threads(labeller, [player], stop, each_tick=lambda ready: None)
    return Outcome(labeller.frames, mailbox.dropped_ever, footage.summary(), stopped)
