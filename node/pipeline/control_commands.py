"""ControlCommands: carries out the requests to a running node."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from node.capture.rate import RateLimit
from node.config.load import changed
from node.config.schema import NodeConfig
from node.errors import ControlError, OutputError
from node.image.jpeg import encode_jpeg
from node.pipeline.active_model import Builder
from node.pipeline.admission import Admission, Share
from node.pipeline.health import HealthReporter
from node.pipeline.inference_loop import InferenceLoop
from node.pipeline.permitted_models import PermittedModels
from node.process.awake import AwakeClock
from node.recording.recorder import Recorder
from node.transport.control_server import Client, Request, Result
from perception_client.messages.codec import to_map

if TYPE_CHECKING:
    from node.perception.perceiver import Perceiver

log = logging.getLogger(__name__)

CHANGEABLE = ("detect.", "segment.", "smooth.", "model.top_k")
"""Keys of the configuration that `set` accepts, beside the max_fps of each camera."""
SHARES = {
    "snapshot": Share(of_one=4, of_all=16),
    "record": Share(of_one=2, of_all=4),
    "model": Share(of_one=1, of_all=1),
}
"""Commands that hold a thread each: a snapshot of a paused or lost camera holds its thread for
`SNAPSHOT_S`."""
OTHERS = Share(of_one=32)
"""Of each other command: one for each camera that a node may have. A request that stops a robot is
never refused because of the requests of other clients."""
BETWEEN_FRAMES_S = 10.0
"""How long a change waits for the inference in progress."""
SNAPSHOT_S = 5.0
"""How long a snapshot waits for its frame; longer for a slow source that is not stalled yet."""
DISK_S = 30.0
SETTLE_S = 5.0
"""How long an answer waits for the probation of another model."""
_Arguments = Mapping[str, Any]
_Command = Callable[[Request], "Future[Result]"]


class ControlCommands:
    """Carries out requests so that no request delays another: requests that wait for a disk, a
    model or a frame run on a few threads of their own, all others between two batches."""

    def __init__(
        self,
        inference_loop: InferenceLoop,
        watch: HealthReporter,
        limits: Mapping[str, RateLimit],
        build: Builder,
        recorder: Recorder,
        awake: AwakeClock,
    ) -> None:
        self._inference_loop = inference_loop
        self._watch = watch
        self._limits = limits
        self._build = build
        self._recorder = recorder
        self._awake = awake
        self._permitted = PermittedModels(inference_loop.config)
        self._admission = Admission(SHARES, OTHERS)
        self._pools = {
            name: ThreadPoolExecutor(share.of_all, thread_name_prefix=f"control-{name}")
            for name, share in SHARES.items()
        }
        self._loading = threading.Lock()
        self._changes: deque[_Change] = deque()
        self._commands: dict[str, tuple[_Command, tuple[str, ...]]] = {
            "status": (self._status, ()),
            "pause": (self._pause, ("camera",)),
            "resume": (self._resume, ("camera",)),
            "set": (self._set, ("settings",)),
            "model": (self._in_pool("model", self._model), ("name", "weights")),
            "snapshot": (self._in_pool("snapshot", self._snapshot), ("camera", "quality")),
            "record": (self._in_pool("record", self._record), ("action",)),
        }

    def handle(self, request: Request) -> "Future[Result]":
        """Begins a request. Raises ControlError for an unknown one, and while the model loads."""
        known = self._commands.get(request.command)
        if known is None:
            if request.command == "step":
                raise ControlError(
                    "command 'step': this node is no replay that was started with --step"
                )
            raise ControlError(
                f"command {request.command!r:.40}: unknown",
                fix=f"commands: {', '.join(self._commands)}",
            )
        work, names = known
        for name in request.arguments:
            if name not in names:
                raise ControlError(
                    f"{request.command}: unknown argument {name!r:.40}",
                    fix=f"it takes: {', '.join(names) or 'none'}",
                )
        if not self._inference_loop.ready.is_set():
            raise ControlError("the node is still loading its model", fix="ask again")
        client = request.client.name
        self._admission.enter(request.command, client)
        try:
            future = work(request)
        except BaseException:
            self._admission.leave(request.command, client)
            raise
        future.add_done_callback(lambda _: self._admission.leave(request.command, client))
        return future

    def ask(
        self, command: str, arguments: _Arguments, client: str = "page"
    ) -> "Future[_Arguments]":
        """As `handle`, for the page: the answer has the result of the command, `settings` and
        `first_seq`. Cancelling the Future withdraws the request. client: name of the connection."""
        answer: Future[_Arguments] = Future()
        asking = Client(client)

        def done(future: "Future[Result]") -> None:
            if future.cancelled() or not answer.set_running_or_notify_cancel():
                return
            error = future.exception()
            if error is not None:
                answer.set_exception(error)
                return
            result = future.result()
            content = {"settings": result.settings, "first_seq": result.first_seq, **result.result}
            if command == "status":
                content["settings"] = result.result["settings"]
            answer.set_result(content)

        future = self.handle(Request(0, command, arguments, asking))
        future.add_done_callback(done)

        def given_up(answer: "Future[_Arguments]") -> None:
            if answer.cancelled():
                asking.leave()
                future.cancel()

        answer.add_done_callback(given_up)
        return answer

    def look_after(self) -> None:
        """Refuses the changes that have waited too long for the inference in progress. Called
        periodically, by one thread."""
        now_ns = self._awake.now_ns()
        while self._changes and (
            self._changes[0].until_ns <= now_ns or self._changes[0].answer.done()
        ):
            self._changes.popleft().refuse(
                f"the inference in progress took over {BETWEEN_FRAMES_S:g} s; nothing was changed"
            )

    def close(self) -> None:
        """Begins no further request; open ones are cancelled where they have not begun."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    def _in_pool(self, name: str, work: Callable[[Request], Result]) -> "_Command":
        return lambda request: self._pools[name].submit(work, request)

    def _status(self, request: Request) -> "Future[Result]":
        config, perceiver = self._inference_loop.config, self._inference_loop.perceiver
        health = self._watch.health
        assert perceiver is not None
        answer: Future[Result] = Future()
        result = Result(
            self._inference_loop.settings,
            result={
                "health": to_map(health) if health is not None else None,
                "model": {**asdict(perceiver.info), "classes": len(perceiver.names)},
                "paused": sorted(self._inference_loop.paused),
                "settings": {
                    "model.top_k": config.model.top_k,
                    "detect": config.detect.model_dump(mode="json"),
                    "segment": config.segment.model_dump(mode="json"),
                    "smooth": config.smooth.model_dump(mode="json"),
                    "max_fps": {name: limit.max_fps for name, limit in self._limits.items()},
                },
            },
        )
        answer.set_result(result)
        return answer

    def _pause(self, request: Request) -> "Future[Result]":
        cameras = self._cameras(request.arguments)
        return self._between_frames(
            self._inference_loop.renumber, lambda: self._inference_loop.pause(cameras)
        )

    def _resume(self, request: Request) -> "Future[Result]":
        cameras = self._cameras(request.arguments)
        return self._between_frames(lambda: self._inference_loop.resume(cameras))

    def _set(self, request: Request) -> "Future[Result]":
        settings = request.arguments.get("settings")
        if not isinstance(settings, dict) or not settings:
            raise ControlError("set: give settings, a map of keys and their values")
        for key in settings:
            _check_changeable(key)

        def change() -> None:  # from the configuration in force then: other clients change it too
            config = changed(self._inference_loop.config, settings)
            self._inference_loop.reconfigure(config)  # the last step that can refuse
            for camera in config.camera:
                if self._limits[camera.name].max_fps != camera.max_fps:
                    self._limits[camera.name].change(camera.max_fps)

        return self._between_frames(change)

    def _model(self, request: Request) -> Result:
        arguments = request.arguments
        name = self._permitted.model(_text(arguments, "name"))
        weights = None
        if arguments.get("weights"):
            weights = self._permitted.weights(_text(arguments, "weights"))
        if not self._loading.acquire(blocking=False):
            raise ControlError("another model is being loaded", fix="ask again")
        try:
            changes = {"model.name": name, "model.weights": weights}
            perceiver = self._built(changed(self._inference_loop.config, changes))
            settled: list[Future[None]] = []

            def change() -> None:  # the settings may have changed during the load
                config = changed(self._inference_loop.config, changes)
                perceiver.use(perceiver.task_for(config))
                settled.append(self._inference_loop.swap(perceiver, config))

            result = self._between_frames(change).result()
            try:
                self._awake.result(settled[0], SETTLE_S)
            except TimeoutError:
                log.info("model %s: no frame came yet to try it on", name)
            return result
        finally:
            self._loading.release()

    def _built(self, config: NodeConfig) -> "Perceiver":
        """Loads a model beside the active one, and tries it on the newest frame of each camera."""
        perceiver = self._build(config)
        for camera, image in list(self._inference_loop.newest.items()):
            try:
                perceiver.perceive(image)
            except Exception as error:  # any error of a model makes the model unusable
                raise ControlError(
                    f"model {config.model.name!r} failed on a frame of camera {camera!r} "
                    f"({error}); the one before goes on"
                ) from error
        return perceiver

    def _snapshot(self, request: Request) -> Result:
        arguments = request.arguments
        (camera,) = sorted(self._cameras(arguments))[:1]
        quality = arguments.get("quality", 90)
        if type(quality) is not int or not 1 <= quality <= 100:
            raise ControlError(f"snapshot: quality = {quality!r:.20}", fix="give 1 to 100")
        patience_s = max(SNAPSHOT_S, self._watch.stall_after_s(camera))
        future = self._inference_loop.snapshot(camera)
        self._awake.wait_for_any((future, request.client.gone), patience_s)
        if not future.done():
            future.cancel()
            raise ControlError(
                f"camera {camera!r}: no labelled frame for {patience_s:g} s",
                fix="is it paused or lost?",
            )
        snapshot = future.result()
        return Result(
            self._inference_loop.settings,
            result={
                "jpeg": encode_jpeg(snapshot.image, quality),
                "message": to_map(snapshot.message),
            },
        )

    def _record(self, request: Request) -> Result:
        arguments = request.arguments
        actions: Mapping[str, Callable[[], Future[Any]]] = {
            "start": self._recorder.begin,
            "stop": self._recorder.end,
            "dump": lambda: self._recorder.dump("request"),
        }
        action = actions.get(_text(arguments, "action"))
        if action is None:
            raise ControlError(
                f"record: action = {arguments['action']!r:.40}", fix="give start, stop or dump"
            )
        try:
            file = self._awake.result(action(), DISK_S)
        except OutputError as error:
            log.error("%s", error)
            raise ControlError(error.problem, fix=error.fix) from error
        except TimeoutError:
            raise ControlError(f"record: the disk did not answer for {DISK_S:g} s") from None
        return Result(
            self._inference_loop.settings, result={"file": None if file is None else str(file)}
        )

    def _between_frames(
        self, change: Callable[[], object], say: Callable[[], object] = lambda: None
    ) -> "Future[Result]":
        """Makes a change between two batches. The result has the first message of each camera to
        which the change applies.

        say: sends the first of these messages; it runs after their numbers are known, so that no
        message with the change precedes them. No thread waits, so any number of changes can.
        """
        waiting = _Change(self._awake.now_ns() + int(BETWEEN_FRAMES_S * 1e9))

        def work() -> None:
            if not waiting.claim():
                return
            try:
                change()
                settings, first_seqs = (
                    self._inference_loop.settings,
                    self._inference_loop.first_seqs(),
                )
                say()
            except Exception as error:  # any error is the answer to the client
                waiting.answer.set_exception(error)
                return
            first_seqs.add_done_callback(
                lambda done: waiting.answer.set_result(Result(settings, done.result()))
            )

        self._changes.append(waiting)
        self._inference_loop.call(work).add_done_callback(waiting.fail_as)
        return waiting.answer

    def _cameras(self, arguments: _Arguments) -> frozenset[str]:
        """The named camera, or all cameras."""
        names = [camera.name for camera in self._inference_loop.config.camera]
        name = arguments.get("camera")
        if name is None:
            return frozenset(names)
        if name not in names:
            raise ControlError(f"no camera {name!r:.40}", fix=f"cameras: {', '.join(names)}")
        return frozenset([name])


class _Change:
    """A change that waits for its turn. A change either begins or is refused, never both.

    until_ns: end of the wait, in awake time.
    """

    def __init__(self, until_ns: int) -> None:
        self.until_ns = until_ns
        self.answer: Future[Result] = Future()
        self._lock = threading.Lock()
        self._claimed = False

    def claim(self) -> bool:
        """Whether the caller is the first to decide, and the client has not cancelled."""
        with self._lock:
            first, self._claimed = not self._claimed, True
        return first and self.answer.set_running_or_notify_cancel()

    def refuse(self, why: str) -> None:
        """Refuses the change, unless it has begun."""
        if self.claim():
            self.answer.set_exception(ControlError(why))

    def fail_as(self, call: "Future[None]") -> None:
        """Fails with the error of the queued call, unless the change has begun."""
        error = call.exception()
        if error is not None and self.claim():
            self.answer.set_exception(error)


def _check_changeable(key: object) -> None:
    if isinstance(key, str):
        if any(
            key == known or (known.endswith(".") and key.startswith(known)) for known in CHANGEABLE
        ):
            return
        parts: Sequence[str] = key.split(".")
        if len(parts) == 3 and parts[0] == "camera" and parts[2] == "max_fps":
            return
    raise ControlError(
        f"set: {key!r:.60} cannot be changed while the node runs",
        fix="what can: "
        f"{', '.join(f'{name}*' if name.endswith('.') else name for name in CHANGEABLE)}, "
        "camera.NAME.max_fps",
    )


def _text(arguments: _Arguments, name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str) or not value:
        raise ControlError(f"{name} = {value!r:.40}: give a text")
    return value
