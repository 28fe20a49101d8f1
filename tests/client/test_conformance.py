"""One interface, three forms: `Subscriber`, `AsyncSubscriber` and `RecordedLabels` behave alike.
The first two receive from a real publisher, the third plays a file with the same messages."""

import asyncio
import dataclasses
import inspect
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.image.frame import Frame, Stamp
from node.pipeline.message_builder import MessageBuilder
from node.recording.encode import frame_entries, message_entries
from node.recording.mcap_writer import RecordingFile
from node.transport.publisher import Publisher
from node.transport.sequencing import Header, Outgoing
from perception_client import protocol, waits
from perception_client.aio import AsyncEventStream, AsyncSubscriber
from perception_client.errors import (
    ArgumentError,
    ArgumentTypeError,
    ClientError,
    ClosedError,
    NoCalibrationError,
    NoMessageError,
    NotSeenError,
    NotUsableError,
    UnknownCameraError,
    UnknownClassError,
)
from perception_client.events import EventStream
from perception_client.messages.calibration import Calibration
from perception_client.messages.kinds import (
    Box,
    CameraHealth,
    Detection,
    EventMessage,
    HealthMessage,
    ImageSize,
    InfoMessage,
    LabelsMessage,
    Message,
    ModelInfo,
    Status,
    boot_id,
    topic_of,
)
from perception_client.subscriber import Subscriber
from perception_client.testing.recorded import RecordedLabels

WAIT_S = 10.0
IMAGE = np.zeros((4, 4, 3), np.uint8)
MODEL = ModelInfo("yolox", "detect", "torch", "fp32", "cpu", "d16e57")
PERSON = Detection(0, "person", 0.9, Box(2.0, 2.0, 2.0, 2.0))
FRONT = Calibration(camera="front", width=4, height=4, fx=1.0, fy=1.0, cx=2.0, cy=2.0)


def labels(seq: int, camera: str = "front", status: Status = Status.OK) -> LabelsMessage:
    message = LabelsMessage(
        node="robot", camera=camera, session="5e55", seq=seq, status=status, published_ns=0
    )
    if status is not Status.OK:
        return message
    return dataclasses.replace(
        message, frame_id=seq, model=MODEL, image=ImageSize(4, 4), detections=(PERSON,)
    )


def health(seq: int = 0) -> HealthMessage:
    cameras = tuple(
        CameraHealth(
            camera=name, status=Status.OK, fps=30.0, width=4, height=4, pixel_format=None,
            newest_frame_age_s=0.0, frames=1, dropped=0, reconnects=0, last_error=None,
        )
        for name in ("front", "rear")
    )  # fmt: skip
    return HealthMessage(
        node="robot", session="5e55", seq=seq, published_ns=0, state="running", cameras=cameras,
        latency_ns=None, rss_bytes=0, cpu=0.0, uptime_s=time.monotonic(), subscribers=0,
    )  # fmt: skip


def info() -> InfoMessage:
    return InfoMessage(
        node="robot", session="5e55", seq=0, published_ns=0, model=MODEL,
        names=("person", "cup"), calibrations=(FRONT,),
    )  # fmt: skip


def event(seq: int) -> EventMessage:
    return EventMessage(
        node="robot", camera="front", session="5e55", seq=seq, kind="appeared", key=str(seq), id=0,
        name="person", score=0.9, since_ns=0, frame_id=0, stamp_ns=0, clock="host", published_ns=0,
    )  # fmt: skip


def dated(message: Message, header: Header) -> Message:
    """The message as of the moment at which it is sent."""
    now_ns = header.published_ns
    message = dataclasses.replace(message, published_ns=now_ns)
    if isinstance(message, LabelsMessage) and message.status is Status.OK:
        mono_ns = header.published_mono_ns
        boot = None if mono_ns is None else boot_id()
        message = dataclasses.replace(
            message, stamp_ns=now_ns, stamp_mono_ns=mono_ns, published_mono_ns=mono_ns,
            clock="host", boot_id=boot,
        )  # fmt: skip
    return message


class Live:
    """A real publisher."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.publisher = Publisher(endpoint)

    def send(self, *messages: Message) -> None:
        for message in messages:
            self.publisher.send(
                Outgoing(topic_of(message), lambda header, message=message: dated(message, header))
            )

    def joined(self, topics: int) -> None:
        deadline = time.monotonic() + WAIT_S
        while self.publisher.subscriptions < topics:
            assert time.monotonic() < deadline
            time.sleep(0.005)


class Blocking:
    """An AsyncSubscriber, each of whose calls runs its event loop until it is done."""

    def __init__(self, make: Callable[[], object], loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._inner: Any = self._run(make)

    def _run(self, call: Callable[[], object]) -> Any:
        async def run() -> object:
            result = call()
            return await result if inspect.isawaitable(result) else result

        return self._loop.run_until_complete(run())

    def __getattr__(self, name: str) -> Any:
        value = self._run(lambda: getattr(self._inner, name))
        if isinstance(value, AsyncEventStream):
            return Blocking(lambda: value, self._loop)
        if callable(value):
            return lambda *args, **named: self._run(lambda: value(*args, **named))
        return value

    def __iter__(self) -> Iterator[Any]:
        iterator = self._inner.__aiter__()
        while True:
            yield self._run(iterator.__anext__)


class Forms:
    """Opens one form of a subscriber on given messages."""

    def __init__(self, form: str, folder: Path) -> None:
        self.form = form
        self._folder = folder
        self._ends: list[Callable[[], object]] = []

    def open(self, messages: Sequence[Message], camera: str | None = None) -> Any:
        if self.form == "recorded":
            return self._recorded(messages, camera)
        live = Live(f"ipc://{self._folder}/wire")
        self._ends.append(live.publisher.close)
        if self.form == "asyncio":
            loop = asyncio.new_event_loop()
            self._ends.append(loop.close)
            source: Any = Blocking(
                lambda: AsyncSubscriber(live.endpoint, camera, timeout_s=WAIT_S), loop
            )
        else:
            source = Subscriber(live.endpoint, camera, timeout_s=WAIT_S)
        self._ends.append(source.close)
        live.joined(3)
        if any(isinstance(message, EventMessage) for message in messages):
            assert source.events.now() == ()  # the first use subscribes
            live.joined(4)
        live.send(*messages)
        return source

    def _recorded(self, messages: Sequence[Message], camera: str | None) -> RecordedLabels:
        path = self._folder / "recorded.mcap"
        file = RecordingFile(path, {"session": "s"})
        start_ns = time.time_ns()
        for name in ("front", "rear"):
            frame = Frame(IMAGE, name, 0, Stamp(start_ns, None, "media"), None, 0)
            file.write(frame_entries(frame, start_ns, quality=80, lost_before=0))
        for number, message in enumerate(messages, start=1):
            at_ns = start_ns + number * 1_000_000
            file.write(message_entries(dated(message, Header(0, at_ns, None)), at_ns))
        file.close()
        played = RecordedLabels(path, camera)
        self._ends.append(played.close)
        return played.__enter__()

    def close(self) -> None:
        for end in reversed(self._ends):
            end()


@pytest.fixture(params=["blocking", "asyncio", "recorded"])
def forms(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Forms]:
    made = Forms(request.param, tmp_path)
    yield made
    made.close()


def test_iteration_misses_nothing_while_alive_and_health_are_looked_at(forms: Forms) -> None:
    messages: list[Message] = [info(), health()]
    for seq in range(30):
        messages += [labels(seq), health(seq + 1)]
    source = forms.open(messages)
    seqs = []
    for message, gap in source:
        assert not gap
        seqs.append(message.seq)
        assert source.alive
        assert source.health(WAIT_S).state == "running"
        if len(seqs) == 30:
            break
    assert seqs == list(range(30))


def test_wait_is_true_until_labels_are_read(forms: Forms) -> None:
    source = forms.open([health(), labels(0), labels(1)])
    assert source.wait(WAIT_S)
    assert source.wait(0.0)
    assert source.receive(WAIT_S)[0].seq == 0
    assert source.wait(WAIT_S)
    latest = source.latest(WAIT_S)
    assert latest is not None
    assert latest.seq == 1
    assert not source.wait(0.05)  # health is not what it waits for, and all labels are read
    assert source.latest(WAIT_S).seq == 1  # the newest can be had again


def test_what_is_older_than_the_newest_is_discarded(forms: Forms) -> None:
    source = forms.open([labels(seq) for seq in range(5)])
    seen = source.require(WAIT_S, timeout_s=WAIT_S)
    while seen.seq < 4:
        source.wait(WAIT_S)
        seen = source.require(WAIT_S)
    with pytest.raises(NoMessageError):
        source.receive(0.05)


def test_health_names_the_cameras(forms: Forms) -> None:
    source = forms.open([health(), labels(0)])
    assert source.health(WAIT_S).cameras[0].camera == "front"
    assert source.newest_health.cameras[1].camera == "rear"
    assert source.cameras == ("front", "rear")
    assert source.receive(WAIT_S)[0].seq == 0
    assert source.late("front") == 0
    assert source.rejected == 0
    assert source.last_rejection is None


def test_events_are_a_stream_that_looking_at_does_not_empty(forms: Forms) -> None:
    source = forms.open([labels(0), event(0), event(1)])
    assert source.receive(WAIT_S)[0].seq == 0
    first = source.events.receive(WAIT_S)
    assert first is not None
    assert first.seq == 0
    second = source.events.receive(WAIT_S)
    assert second is not None
    assert second.seq == 1
    assert source.events.receive(0.05) is None
    assert source.events.take() == []
    assert [message.seq for message in source.events.now("front")] == [0, 1]
    assert source.events.now("rear") == ()
    assert source.events.lost == 0


def test_a_class_that_the_model_does_not_have_is_an_error_that_names_the_nearest(
    forms: Forms,
) -> None:
    source = forms.open([info(), labels(0), labels(1), labels(2)])
    with pytest.raises(UnknownClassError, match=r"'yolox' has no class 'persn'; .*'person'\?"):
        source.wait_for("persn", WAIT_S)
    message = source.wait_for("person", WAIT_S)
    for ask in (message.largest, message.shows, message.area, message.of_class, message.mask,
                message.nearest_to_centre):  # fmt: skip
        with pytest.raises(UnknownClassError, match="did you mean 'person'"):
            ask("Persn")
        ask("cup")
    with pytest.raises(UnknownClassError, match="it has 2: 'cup', 'person'"):
        message.shows("zebra")
    with pytest.raises(NotSeenError, match="no 'cup' was seen"):
        source.wait_for("cup", 0.1)


def test_no_name_waits_for_anything(forms: Forms) -> None:
    empty = dataclasses.replace(labels(0), detections=())
    source = forms.open([info(), empty, labels(1), labels(2)])
    message = source.wait_for(None, WAIT_S)
    assert (message.seq, message.shows(), message.shows(None, 0.999)) == (1, True, False)
    assert not empty.shows()
    with pytest.raises(NotSeenError, match="nothing was seen for"):
        source.wait_for(None, 0.3, min_score=0.999)


def test_a_class_passes_while_the_model_is_not_known(forms: Forms) -> None:
    source = forms.open([labels(0)])
    message, _ = source.receive(WAIT_S)
    assert message.largest("persn") is None
    assert message.largest("person") == PERSON


def test_a_camera_that_the_node_does_not_have_is_named_beside_those_it_has(forms: Forms) -> None:
    source = forms.open([health(), labels(0)])
    source.health(WAIT_S)
    with pytest.raises(UnknownCameraError, match="no camera 'fron'; it has: front, rear"):
        source.require(1.0, camera="fron", timeout_s=WAIT_S)
    assert source.require(WAIT_S, camera="front", timeout_s=WAIT_S).camera == "front"


def test_a_subscriber_for_a_camera_that_is_not_there_says_so(forms: Forms) -> None:
    with pytest.raises(UnknownCameraError, match="no camera 'fron'; it has: front, rear"):
        next(iter(forms.open([health(), labels(0), labels(1)], "fron")))


def test_another_camera_than_the_subscribers_own_is_refused(forms: Forms) -> None:
    source = forms.open([health(), labels(0)], "front")
    with pytest.raises(ClientError, match="receives camera 'front' only, not 'rear'"):
        source.require(1.0, camera="rear")
    assert source.require(WAIT_S, timeout_s=WAIT_S).camera == "front"


@pytest.mark.parametrize("name", ["callback", "on_fresh"])
def test_a_callback_that_cannot_be_called_is_refused_when_it_is_registered(
    forms: Forms, name: str
) -> None:
    async def later(error: object) -> None: ...

    source = forms.open([labels(0)])
    for wrong, why in (
        (lambda: None, "has to take one argument"),
        (lambda first, second: None, "has to take one argument"),
        ("stop", "give a function of one argument"),
        (later, "is async"),
    ):
        callbacks = {"callback": print, name: wrong}
        with pytest.raises(ArgumentTypeError, match=f"^{name} .*{why}"):
            source.on_stale(1.0, **callbacks)
    with pytest.raises(TypeError, match="callback is None"):
        source.on_stale(1.0, None)
    for fits in (print, lambda *errors: None, [].append, queue.Queue().put):
        with source.on_stale(60.0, fits) as guard:
            assert guard.watching
        assert not guard.watching


def test_a_guard_calls_back_until_it_is_closed(forms: Forms) -> None:
    stale: list[NotUsableError] = []
    closed: list[NotUsableError] = []
    source = forms.open([labels(0)])
    with source.on_stale(0.2, stale.append):
        source.on_stale(0.2, closed.append).close()
        deadline = time.monotonic() + WAIT_S
        while not stale and time.monotonic() < deadline:
            source.wait(0.1)
            source.latest(0.0)
    assert len(stale) == 1
    assert closed == []


def test_a_calibration_is_given_or_said_to_be_missing(forms: Forms) -> None:
    source = forms.open([info(), health(), labels(0)])
    assert source.calibration("front", WAIT_S) == FRONT
    source.health(WAIT_S)
    with pytest.raises(NoCalibrationError, match="'rear' has no calibration"):
        source.calibration("rear", 0.1)
    with pytest.raises(UnknownCameraError):
        source.calibration("fron", 0.1)
    assert source.receive(WAIT_S)[0].seq == 0  # nothing was read away


def test_after_closing_every_call_says_so(forms: Forms) -> None:
    source = forms.open([labels(0), health()])
    assert source.receive(WAIT_S)
    events = source.events
    source.close()
    source.close()
    for call in (
        lambda: source.latest(1.0),
        lambda: source.require(1.0),
        lambda: source.wait(0.1),
        lambda: source.receive(0.1),
        lambda: next(iter(source)),
        lambda: source.health(0.1),
        lambda: source.calibration("front", 0.1),
        lambda: source.wait_for("cup", 0.1),
        lambda: source.on_stale(1.0, print),
        lambda: events.receive(0.1),
    ):
        with pytest.raises(ClosedError, match=r"closed"):
            call()


def test_nonsense_is_an_error_of_the_library(forms: Forms) -> None:
    source = forms.open([labels(0)])
    for call in (source.latest, source.require, source.wait, source.receive, source.health):
        with pytest.raises(ArgumentError):
            call(-1)
        with pytest.raises(ArgumentTypeError):
            call("soon")


def test_milliseconds_taken_for_seconds_are_warned_of_once(
    forms: Forms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "_WARNED", set())
    source = forms.open([labels(0)])
    with pytest.warns(  # noqa: PT031  # once, in all calls
        UserWarning, match=r"200 seconds.* 3 min old .*write 0\.2"
    ) as caught:
        source.latest(200)
        source.latest(200)
        source.require(200, timeout_s=WAIT_S)
    assert len(caught) == 1
    assert caught[0].filename == __file__ or forms.form == "asyncio"


SYNC, ASYNC = protocol.LabelSource, protocol.AsyncLabelSource


@pytest.mark.parametrize(
    ("form", "interface"),
    [(Subscriber, SYNC), (RecordedLabels, SYNC), (AsyncSubscriber, ASYNC),
     (EventStream, protocol.Events), (AsyncEventStream, protocol.AsyncEvents)],
)  # fmt: skip
def test_the_interface_is_the_same_by_name_and_by_argument(form: type, interface: type) -> None:
    for name in protocol_members(interface):
        expected, actual = getattr(interface, name), getattr(form, name)
        assert isinstance(expected, property) == isinstance(actual, property), name
        if not isinstance(expected, property) and not name.startswith("__"):
            assert parameters(actual) == parameters(expected), name
            assert inspect.iscoroutinefunction(actual) == inspect.iscoroutinefunction(expected), (
                name
            )


def test_the_asyncio_form_has_every_call_of_the_blocking_one() -> None:
    def public(members: Sequence[str]) -> set[str]:
        return {name for name in members if not name.startswith("_")}

    assert public(protocol_members(SYNC)) == public(protocol_members(ASYNC))
    assert public(dir(Subscriber)) == public(dir(AsyncSubscriber))
    assert public(dir(Subscriber)) <= public(dir(RecordedLabels))


def protocol_members(interface: type) -> list[str]:
    names = {name for base in interface.__mro__ for name in vars(base) if base is not object}
    return sorted(
        name for name in names
        if not name.startswith("_") or name in ("__iter__", "__aiter__", "__enter__", "__aenter__")
    )  # fmt: skip


def parameters(function: Callable[..., object]) -> list[tuple[str, object, object]]:
    arguments = inspect.signature(function).parameters.values()
    return [(argument.name, argument.kind, argument.default) for argument in arguments]


def test_message_builder_and_interface_agree_on_the_session() -> None:
    """The classes that a message checks are those of its own run of the node."""
    builder = MessageBuilder("robot")
    message = builder.info(MODEL, ("person",)).finalise(Header(0, 0, None))
    assert isinstance(message, InfoMessage)
    assert message.session == builder.session
