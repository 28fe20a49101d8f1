"""Controller: what each request to a running node does."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from node.awake import AwakeClock
from node.capture.pacing import RateLimit
from node.config import NodeConfig
from node.config_file import changed
from node.errors import ControlError, OutputError
from node.jpeg import encode_jpeg
from node.labeller import Labeller
from node.lineup import Builder
from node.recording.recorder import Recorder
from node.watch import Watch
from node.wire.codec import to_map
from node.wire.control import Request, Result

if TYPE_CHECKING:
    from node.perception.perceiver import Perceiver

log = logging.getLogger(__name__)

CHANGEABLE = ("detect.", "segment.", "smooth.", "model.top_k")
"""Keys of the configuration that `set` takes, beside each camera's max_fps."""
_MOST_SNAPSHOTS = 16
"""Snapshots that wait for their frames at once; each camera that is paused or lost holds its own
for `SNAPSHOT_S`."""
BETWEEN_FRAMES_S = 10.0
"""How long a change waits for the frame that is being looked at."""
SNAPSHOT_S = 5.0
"""How long a snapshot waits for its frame; of a slow source as long as that is not stalled."""
DISK_S = 30.0
SETTLE_S = 5.0
"""How long an answer waits for the first frames of another model."""
_Arguments = Mapping[str, Any]


class Controller:
    """Carries out requests on a few threads of its own, so that none holds another."""

    def __init__(
        self,
        labeller: Labeller,
        watch: Watch,
        limits: Mapping[str, RateLimit],
        build: Builder,
        recorder: Recorder,
        awake: AwakeClock,
    ) -> None:
        self._labeller = labeller
        self._watch = watch
        self._limits = limits
        self._build = build
        self._recorder = recorder
        self._awake = awake
        self._workers = ThreadPoolExecutor(4, thread_name_prefix="control-work")
        waiters = ThreadPoolExecutor(4, thread_name_prefix="control-wait")
        snapshots = ThreadPoolExecutor(_MOST_SNAPSHOTS, thread_name_prefix="control-snapshot")
        # What waits for a frame, a disk or a model holds nothing else.
        self._waiting = {"snapshot": snapshots, "record": waiters, "model": waiters}
        self._loading = threading.Lock()
        self._commands: dict[str, tuple[Callable[[_Arguments], Result], tuple[str, ...]]] = {
            "status": (self._status, ()),
            "pause": (self._pause, ("camera",)),
            "resume": (self._resume, ("camera",)),
            "set": (self._set, ("settings",)),
            "model": (self._model, ("name", "weights")),
            "snapshot": (self._snapshot, ("camera", "quality")),
            "record": (self._record, ("action",)),
        }

    def handle(self, request: Request) -> "Future[Result]":
        """Begins a request. Raises ControlError for one that is unknown or too early."""
        known = self._commands.get(request.command)
        if known is None:
            raise ControlError(
                f"command {request.command!r:.40}: unknown; commands: {', '.join(self._commands)}"
            )
        work, names = known
        for name in request.arguments:
            if name not in names:
                raise ControlError(
                    f"{request.command}: unknown argument {name!r:.40}; it takes: "
                    f"{', '.join(names) or 'none'}"
                )
        if not self._labeller.ready.is_set():
            raise ControlError("the node is still loading its model; ask again")
        workers = self._waiting.get(request.command, self._workers)
        return workers.submit(work, request.arguments)

    def ask(self, command: str, arguments: _Arguments) -> "Future[_Arguments]":
        """As `handle`, for the page: its answer is what the command gives, beside `first_seq`."""
        answer: Future[_Arguments] = Future()

        def done(future: "Future[Result]") -> None:
            error = future.exception()
            if error is not None:
                answer.set_exception(error)
                return
            result = future.result()
            told = {"settings": result.settings, "first_seq": result.first_seq, **result.result}
            if command == "status":
                told["settings"] = result.result["settings"]
            answer.set_result(told)

        self.handle(Request(0, command, arguments)).add_done_callback(done)
        return answer

    def close(self) -> None:
        """Begins nothing more."""
        for workers in (self._workers, *self._waiting.values()):
            workers.shutdown(wait=False, cancel_futures=True)

    def _status(self, arguments: _Arguments) -> Result:
        config, perceiver = self._labeller.config, self._labeller.perceiver
        health = self._watch.health
        assert perceiver is not None
        return Result(
            self._labeller.settings,
            result={
                "health": to_map(health) if health is not None else None,
                "model": {**asdict(perceiver.info), "classes": len(perceiver.names)},
                "paused": sorted(self._labeller.paused),
                "settings": {
                    "model.top_k": config.model.top_k,
                    "detect": config.detect.model_dump(mode="json"),
                    "segment": config.segment.model_dump(mode="json"),
                    "smooth": config.smooth.model_dump(mode="json"),
                    "max_fps": {name: limit.max_fps for name, limit in self._limits.items()},
                },
            },
        )

    def _pause(self, arguments: _Arguments) -> Result:
        cameras = self._cameras(arguments)
        return self._between_frames(self._labeller.renumber, lambda: self._labeller.pause(cameras))

    def _resume(self, arguments: _Arguments) -> Result:
        cameras = self._cameras(arguments)
        return self._between_frames(lambda: self._labeller.resume(cameras))

    def _set(self, arguments: _Arguments) -> Result:
        settings = arguments.get("settings")
        if not isinstance(settings, dict) or not settings:
            raise ControlError("set: give settings, a map of keys and their values")
        for key in settings:
            _check_changeable(key)

        def change() -> None:  # from what is in force then: others change it too
            config = changed(self._labeller.config, settings)
            self._labeller.reconfigure(config)  # the last that can refuse it
            for camera in config.camera:
                if self._limits[camera.name].max_fps != camera.max_fps:
                    self._limits[camera.name].change(camera.max_fps)

        return self._between_frames(change)

    def _model(self, arguments: _Arguments) -> Result:
        name = _text(arguments, "name")
        weights = _text(arguments, "weights") if arguments.get("weights") else None
        if not self._loading.acquire(blocking=False):
            raise ControlError("another model is being loaded; ask again")
        try:
            wanted = {"model.name": name, "model.weights": weights}
            perceiver = self._built(changed(self._labeller.config, wanted))
            settled: list[Future[None]] = []

            def change() -> None:  # settings may have been changed while it was loaded
                config = changed(self._labeller.config, wanted)
                perceiver.use(perceiver.task_for(config))
                settled.append(self._labeller.swap(perceiver, config))

            result = self._between_frames(change)
            try:
                self._awake.result(settled[0], SETTLE_S)
            except TimeoutError:
                log.info("model %s: no frame came yet to try it on", name)
            return result
        finally:
            self._loading.release()

    def _built(self, config: NodeConfig) -> "Perceiver":
        """Loaded and warm beside the running one, and tried on what each camera saw last."""
        perceiver = self._build(config)
        for camera, image in list(self._labeller.newest.items()):
            try:
                perceiver.perceive(image)
            except Exception as error:  # whatever a model raises: it does not serve
                raise ControlError(
                    f"model {config.model.name!r} failed on a frame of camera {camera!r} "
                    f"({error}); the one before goes on"
                ) from error
        return perceiver

    def _snapshot(self, arguments: _Arguments) -> Result:
        (camera,) = sorted(self._cameras(arguments))[:1]
        quality = arguments.get("quality", 90)
        if type(quality) is not int or not 1 <= quality <= 100:
            raise ControlError(f"snapshot: quality = {quality!r:.20}; give 1 to 100")
        patience_s = max(SNAPSHOT_S, self._watch.stall_after_s(camera))
        taken = self._labeller.snapshot(camera)
        try:
            snapshot = self._awake.result(taken, patience_s)
        except TimeoutError:
            taken.cancel()
            raise ControlError(
                f"camera {camera!r}: no labelled frame for {patience_s:g} s; is it paused or lost?"
            ) from None
        return Result(
            self._labeller.settings,
            result={
                "jpeg": encode_jpeg(snapshot.image, quality),
                "message": to_map(snapshot.message),
            },
        )

    def _record(self, arguments: _Arguments) -> Result:
        actions: Mapping[str, Callable[[], Future[Any]]] = {
            "start": self._recorder.begin,
            "stop": self._recorder.end,
            "dump": lambda: self._recorder.dump("request"),
        }
        action = actions.get(_text(arguments, "action"))
        if action is None:
            raise ControlError(
                f"record: action = {arguments['action']!r:.40}; give start, stop or dump"
            )
        try:
            file = self._awake.result(action(), DISK_S)
        except OutputError as error:
            raise ControlError(str(error)) from error
        except TimeoutError:
            raise ControlError(f"record: the disk did not answer for {DISK_S:g} s") from None
        return Result(self._labeller.settings, result={"file": None if file is None else str(file)})

    def _between_frames(
        self, change: Callable[[], object], say: Callable[[], object] = lambda: None
    ) -> Result:
        """Makes a change between two frames; from which messages on it holds. say: what makes the
        first of them, so that none that says the change can come before."""

        def work() -> "tuple[int, Future[dict[str, int]]]":
            change()
            settings, first_seqs = self._labeller.settings, self._labeller.first_seqs()
            say()
            return settings, first_seqs

        asked = self._labeller.call(work)
        try:
            settings, reached = self._awake.result(asked, BETWEEN_FRAMES_S)
            first_seqs = self._awake.result(reached, BETWEEN_FRAMES_S)
            return Result(settings, first_seqs)
        except TimeoutError:
            came = "nothing was changed" if asked.cancel() else "the change is under way"
            raise ControlError(
                f"the frame that is being looked at took over {BETWEEN_FRAMES_S:g} s; {came}"
            ) from None

    def _cameras(self, arguments: _Arguments) -> frozenset[str]:
        """The one that is named, or all."""
        names = [camera.name for camera in self._labeller.config.camera]
        wanted = arguments.get("camera")
        if wanted is None:
            return frozenset(names)
        if wanted not in names:
            raise ControlError(f"no camera {wanted!r:.40}; cameras: {', '.join(names)}")
        return frozenset([wanted])


def _check_changeable(key: object) -> None:
    if isinstance(key, str):
        if any(key == x or (x.endswith(".") and key.startswith(x)) for x in CHANGEABLE):
            return
        parts: Sequence[str] = key.split(".")
        if len(parts) == 3 and parts[0] == "camera" and parts[2] == "max_fps":
            return
    raise ControlError(
        f"set: {key!r:.60} cannot be changed while the node runs; what can: "
        f"{', '.join(f'{x}*' if x.endswith('.') else x for x in CHANGEABLE)}, camera.NAME.max_fps"
    )


def _text(arguments: _Arguments, name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str) or not value:
        raise ControlError(f"{name} = {value!r:.40}: give a text")
    return value
