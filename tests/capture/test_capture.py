"""Sources, pacing, the mailbox and the grabber."""

import itertools
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PilImage
from support.streams import MjpegServer

from node.capture.mailbox import LatestMailbox, LosslessMailbox
from node.capture.rate import RealtimeSource
from node.capture.sources.base import Picture, Source
from node.capture.sources.demo import HEIGHT, WIDTH, DemoSource
from node.capture.sources.device import LiveSource
from node.capture.sources.image_files import read_image
from node.capture.sources.open import check_source, open_source
from node.config.redact import redacted
from node.config.schema import CameraConfig
from node.errors import PictureError, SourceError
from node.image.frame import Frame, Image, Stamp
from node.image.jpeg import decode_jpeg, encode_jpeg, holds_another
from node.pipeline.camera_status import StatusAnnouncer, camera_status
from perception_client.messages.kinds import Status

PICTURES = Path(skimage.__file__).parent / "data"
WAIT_S = 10.0

PHOTO = Path(skimage.__file__).parent / "data" / "coffee.png"


def grey(shade: int) -> Image:
    return np.full((48, 64, 3), shade, np.uint8)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Fifteen frames at 30 a second, each of its own shade."""
    file = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter.fourcc(*"MJPG"), 30.0, (64, 48))
    for shade in range(15):
        writer.write(grey(16 * shade))
    writer.release()
    return file


def all_of(source: Source) -> list[Picture]:
    return list(iter(source.read, None))  # type: ignore[arg-type]


def test_a_video_gives_every_frame_in_order_with_growing_positions(clip: Path) -> None:
    source = open_source(CameraConfig(source=str(clip)))
    pictures = all_of(source)
    shades = [int(picture.image.mean()) for picture in pictures]
    assert shades == pytest.approx([16 * shade for shade in range(15)], abs=3)
    positions = [picture.media_ns for picture in pictures]
    assert all(
        later - earlier == pytest.approx(1e9 / 30, rel=0.01)
        for earlier, later in itertools.pairwise(positions)
    )
    assert {picture.stamp.clock for picture in pictures if picture.stamp} == {"media"}
    assert source.summary() == f"{clip}: 15 frames read"


def test_a_looped_video_begins_again_and_its_positions_go_on(clip: Path) -> None:
    source = open_source(CameraConfig(source=str(clip), loop=True))
    pictures = [source.read() for _ in range(40)]
    positions = [picture.media_ns for picture in pictures if picture]
    assert len(positions) == 40
    assert all(earlier < later for earlier, later in itertools.pairwise(positions))
    assert pictures[15].image.mean() == pytest.approx(pictures[0].image.mean(), abs=1)


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1"])
def test_every_kind_of_picture_becomes_bgr(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("picture.jpg" if mode == "CMYK" else "picture.png")
    PilImage.new("RGB", (40, 30), (200, 10, 10)).convert(mode).save(file)
    image = read_image(file)
    assert image.shape == (30, 40, 3)
    assert image.dtype == np.uint8
    if mode in ("RGBA", "P", "CMYK"):
        blue, _, red = image[15, 20]
        assert red > blue + 100


def test_a_picture_is_turned_upright(tmp_path: Path) -> None:
    file = tmp_path / "turned.jpg"
    exif = PilImage.Exif()
    exif[0x0112] = 6  # orientation: to be turned by 90 degrees
    PilImage.new("RGB", (40, 30)).save(file, exif=exif)
    assert read_image(file).shape == (40, 30, 3)


def test_pictures_come_by_name_and_a_truncated_one_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photo = PilImage.open(PICTURES / "coffee.png").convert("RGB")
    for name in ("c.jpg", "a.jpg", "b.jpg"):
        photo.save(tmp_path / name)
    whole = (tmp_path / "b.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (tmp_path / "notes.txt").write_text("no picture")
    for spec in (str(tmp_path), str(tmp_path / "*.jpg")):
        caplog.clear()
        source = open_source(CameraConfig(source=spec, fps=10.0))
        pictures = all_of(source)
        assert [picture.file.name for picture in pictures if picture.file] == ["a.jpg", "c.jpg"]
        assert [picture.media_ns for picture in pictures] == [0, 10**8]
        assert source.summary() == (
            "2 pictures read, 1 of 3 files skipped: "
            "1 cannot be read: image file is truncated (11 bytes not processed)"
        )
        assert "b.jpg: cannot be read" in caplog.text


def test_the_demo_moves() -> None:
    demo = DemoSource()
    first, later = demo.read(), [demo.read() for _ in range(10)][-1]
    assert first.image.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(first.image.astype(int) - later.image).mean() > 1


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("rtsp://ann:secret@127.0.0.1:9/x", "refuses the connection; check that the server runs"),
        ("http://ann:secret@127.0.0.1:9/x", "refuses the connection; check that the server runs"),
        ("http://ann:sec/ret@127.0.0.1:9/x", "malformed; write http://USER:PASSWORD@HOST"),
        ("gst:videotestsrc ! appsink", "GStreamer"),
        ("/dev/video77", "/dev/video77 does not exist; cameras here: "),
        ("nothing/*.jpg", "no picture matches"),
    ],
)
def test_a_source_that_cannot_be_opened_is_said(source: str, reason: str) -> None:
    started = time.monotonic()
    with pytest.raises(SourceError) as caught:
        open_source(CameraConfig(source=source))
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)
    assert time.monotonic() - started < 15


def test_a_source_is_checked_before_anything_is_loaded(clip: Path) -> None:
    check_source(CameraConfig(source=str(clip)))
    check_source(CameraConfig(source="rtsp://127.0.0.1:9/x"))  # may come later
    check_source(CameraConfig(source="/dev/video77", at_start="wait"))
    with pytest.raises(SourceError):
        check_source(CameraConfig(source="/dev/video77"))


def test_a_stream_over_http_is_stamped_by_the_host() -> None:
    server = MjpegServer(grey(120))
    try:
        source = open_source(CameraConfig(source=server.url))
        pictures = [source.read() for _ in range(5)]
        source.close()
    finally:
        server.close()
    for picture in pictures:
        assert picture is not None
        assert picture.image.mean() == pytest.approx(120, abs=3)
        assert picture.stamp is not None
        assert picture.stamp.clock == "host"
        assert abs(time.time_ns() - picture.stamp.unix_ns) < 60e9
    assert source.live


def test_a_damaged_picture_of_a_stream_is_never_labelled() -> None:
    """Cut off, overwritten and whole pictures by turns, as a bad cable or link makes them."""

    def damage(jpeg: bytes, number: int) -> bytes:
        middle = len(jpeg) // 2
        return {
            1: jpeg[:middle],
            2: jpeg[:middle] + bytes(300) + jpeg[middle + 300 :],
        }.get(number, jpeg)

    server = MjpegServer(read_image(PHOTO), damage=damage, pictures=4)
    whole, damaged = 0, []
    try:
        source = open_source(CameraConfig(source=server.url))
        for _ in range(20):
            try:
                picture = source.read()
            except PictureError as error:
                damaged.append(str(error))
            else:
                assert picture is not None
                assert picture.jpeg is not None
                assert np.array_equal(
                    cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), 1), picture.image
                )
                whole += 1
        source.close()
    finally:
        server.close()
    assert 9 <= whole <= 11
    shown = redacted(server.url)
    assert all(shown in error and "damaged" in error for error in damaged)


@pytest.mark.parametrize("behind", [b"", b"\r\n", bytes(5000), b"\xff" * 9, b"\xff\xd9"])
def test_what_pads_a_picture_is_no_other(behind: bytes) -> None:
    jpeg = encode_jpeg(read_image(PHOTO), 90)
    thumbnail = b"\xff\xe1" + (len(jpeg[:9000]) + 2).to_bytes(2, "big") + jpeg[:9000]
    with_thumbnail = jpeg[:2] + thumbnail + jpeg[2:]
    assert not holds_another(jpeg + behind)
    assert not holds_another(with_thumbnail + behind)
    assert holds_another(with_thumbnail + behind + jpeg)
    assert not holds_another(jpeg[:7])


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_any_bytes_hold_another_or_do_not(head: bytes, tail: bytes) -> None:
    assert holds_another(b"\xff\xd8" + head + b"\xff\xd9" + tail) in (True, False)


def test_a_jpeg_with_a_few_stray_bytes_is_whole() -> None:
    jpeg = encode_jpeg(read_image(PHOTO), 90)
    image = decode_jpeg(jpeg)
    assert np.array_equal(decode_jpeg(jpeg[:-2] + b"\0\0" + jpeg[-2:]), image)
    with pytest.raises(PictureError, match="damaged"):
        decode_jpeg(jpeg[:-2] + bytes(300) + jpeg[-2:])


def test_damage_behind_stray_bytes_is_found() -> None:
    """Some cameras leave a few bytes before each restart marker; the decoder that finds damage
    stops at the first of them."""
    interval = [cv2.IMWRITE_JPEG_QUALITY, 85, cv2.IMWRITE_JPEG_RST_INTERVAL, 16]
    jpeg = cv2.imencode(".jpg", read_image(PHOTO), interval)[1].tobytes()
    scan = jpeg.index(b"\xff\xda") + 14
    stray = jpeg[:scan] + re.sub(rb"(\xff[\xd0-\xd7])", rb"abc\1", jpeg[scan:])
    assert np.array_equal(decode_jpeg(stray), decode_jpeg(jpeg))
    for share in (0.3, 0.5, 0.9, 0.99):
        offset = int(share * len(stray))
        for damaged in (stray[:offset], stray[: offset - 700] + stray[offset:]):
            with pytest.raises(PictureError, match="damaged"):
                decode_jpeg(damaged)


def test_damage_in_the_header_of_a_jpeg_is_said() -> None:
    jpeg = encode_jpeg(np.zeros((24, 32, 3), np.uint8), 90)
    tables, frame = jpeg.index(b"\xff\xdb"), jpeg.index(b"\xff\xc0")
    for bad in (
        jpeg[:tables] + bytes(14) + jpeg[tables:],
        jpeg[:frame] + b"\0" + jpeg[frame + 1 :],
    ):
        with pytest.raises(PictureError, match="damaged"):
            decode_jpeg(bad)


class FakeDevice:
    """What `cv2.VideoCapture` is for a camera that is not here: grabs quickly, decodes slowly."""

    DECODE_S = 0.03

    def __init__(self, *, backend: str = "V4L2", driver_ns: Callable[[], int] = lambda: 0) -> None:
        self._backend = backend
        self._driver_ns = driver_ns
        self.asked: dict[int, float] = {}
        self.works = True

    def getBackendName(self) -> str:
        return self._backend

    def set(self, setting: int, value: float) -> bool:
        self.asked[setting] = value
        return True

    def get(self, setting: int) -> float:
        values = {
            cv2.CAP_PROP_FRAME_WIDTH: 640,
            cv2.CAP_PROP_FRAME_HEIGHT: 480,
            cv2.CAP_PROP_FPS: 15.0,
            cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*"YUYV"),
            cv2.CAP_PROP_POS_MSEC: self._driver_ns() / 1e6,
        }
        return values[setting]

    def grab(self) -> bool:
        return self.works

    def retrieve(self) -> tuple[bool, Image]:
        time.sleep(self.DECODE_S)  # decoding, which must not count into the stamp
        return True, grey(7)

    def release(self) -> None:
        pass


def live(device: FakeDevice, **settings: object) -> LiveSource:
    config = CameraConfig.model_validate({"name": "front", "source": "0", **settings})
    return LiveSource(device, "camera 'front'", config)  # type: ignore[arg-type]


class MjpgDevice(FakeDevice):
    """A USB camera in motion JPEG, whose driver gives the bytes where it is asked to."""

    def __init__(self, jpegs: Sequence[bytes]) -> None:
        super().__init__()
        self._jpegs = iter(jpegs)

    def get(self, setting: int) -> float:
        if setting == cv2.CAP_PROP_FOURCC:
            return cv2.VideoWriter.fourcc(*"MJPG")
        return super().get(setting)

    def retrieve(self) -> tuple[bool, Image]:
        jpeg = np.frombuffer(next(self._jpegs), np.uint8)[None]
        if self.asked.get(cv2.CAP_PROP_CONVERT_RGB) == 0:
            return True, jpeg
        return True, cv2.imdecode(jpeg, cv2.IMREAD_COLOR)


def test_a_usb_camera_in_motion_jpeg_is_decoded_strictly() -> None:
    jpeg = encode_jpeg(read_image(PHOTO), 90)
    source = live(MjpgDevice([jpeg, jpeg[:2000], jpeg]))
    first = source.read()
    assert first is not None
    assert first.jpeg == jpeg
    with pytest.raises(PictureError, match="camera 'front': a picture is damaged"):
        source.read()
    assert source.read() is not None


def test_a_frame_is_stamped_at_grab_before_decoding() -> None:
    before = time.monotonic_ns()
    picture = live(FakeDevice()).read()
    assert picture is not None
    assert picture.stamp is not None
    assert picture.stamp.clock == "host"
    assert picture.stamp.mono_ns is not None
    assert picture.stamp.mono_ns - before < 0.02e9
    assert picture.capture_ns >= FakeDevice.DECODE_S * 1e9


def test_the_stamp_of_the_driver_is_used_where_it_is_plausible() -> None:
    picture = live(FakeDevice(driver_ns=lambda: time.monotonic_ns() - 20_000_000)).read()
    assert picture is not None
    assert picture.stamp is not None
    assert picture.stamp.clock == "driver"
    age_ns = time.time_ns() - picture.stamp.unix_ns
    assert 20e6 <= age_ns < 2e9
    for implausible in (lambda: 0, lambda: time.monotonic_ns() + 10**10):
        picture = live(FakeDevice(driver_ns=implausible)).read()
        assert picture is not None
        assert picture.stamp is not None
        assert picture.stamp.clock == "host"
    elsewhere = live(FakeDevice(backend="FFMPEG", driver_ns=time.monotonic_ns)).read()
    assert elsewhere is not None
    assert elsewhere.stamp is not None
    assert elsewhere.stamp.clock == "host"


def test_what_a_camera_gives_instead_is_said() -> None:
    device = FakeDevice()
    facts = live(device, width=1280, height=480, fps=30.0, fourcc="MJPG").facts
    assert (facts.width, facts.height, facts.fps, facts.pixel_format) == (640, 480, 15.0, "YUYV")
    assert facts.differences == (
        "width 1280 asked for, 640 given",
        "fps 30.0 asked for, 15.0 given",
        "fourcc MJPG asked for, YUYV given",
    )
    assert device.asked[cv2.CAP_PROP_BUFFERSIZE] == 1
    assert next(iter(device.asked)) == cv2.CAP_PROP_FOURCC


def test_a_camera_that_stops_is_said() -> None:
    device = FakeDevice()
    source = live(device)
    device.works = False
    with pytest.raises(SourceError, match="camera 'front' stopped delivering frames"):
        source.read()


def test_a_file_played_like_a_camera_takes_its_time_and_is_stamped_now(clip: Path) -> None:
    source = RealtimeSource(open_source(CameraConfig(source=str(clip))), threading.Event())
    stamps = []
    while (picture := source.read()) is not None:
        assert picture.stamp is not None
        assert picture.stamp.clock == "host"
        assert time.monotonic_ns() - (picture.stamp.mono_ns or 0) < 0.2e9
        stamps.append(picture.stamp.mono_ns or 0)
    assert (stamps[-1] - stamps[0]) / 1e9 == pytest.approx(14 / 30, abs=0.15)


def frame(camera: str, number: int) -> Frame:
    return Frame(grey(0), camera, number, Stamp.now(), None, 0)


def test_the_newest_frame_wins_and_drops_are_counted() -> None:
    mailbox = LatestMailbox(["a"])
    assert not mailbox.take_all(0.01, 1)
    for number in range(5):
        mailbox.put(frame("a", number))
    (queued,) = mailbox.take_all(0.01, 1)
    assert (queued.frame.frame_id, queued.dropped) == (4, 4)
    mailbox.put(frame("a", 5))
    (queued,) = mailbox.take_all(0.01, 1)
    assert queued.dropped == 0
    assert mailbox.dropped("a") == 4


def test_frames_that_a_camera_gave_up_before_count_as_dropped() -> None:
    mailbox = LatestMailbox(["a"])
    mailbox.put(replace(frame("a", 3), dropped=3))
    mailbox.put(replace(frame("a", 6), dropped=2))
    (queued,) = mailbox.take_all(0.01, 1)
    assert (queued.frame.frame_id, queued.dropped, mailbox.dropped("a")) == (6, 6, 6)


def test_cameras_are_served_in_turn() -> None:
    mailbox = LatestMailbox(["a", "b", "c"])
    served = []
    for number in range(9):
        for camera in ("a", "b", "c"):
            mailbox.put(frame(camera, number))
        (queued,) = mailbox.take_all(0.01, 1)
        served.append(queued.frame.camera)
    assert served == ["a", "b", "c"] * 3


def test_every_frame_is_taken_once_where_none_may_be_lost() -> None:
    mailbox = LosslessMailbox(threading.Event())

    def put_all() -> None:
        for number in range(50):
            mailbox.put(frame("a", number))
        mailbox.close_all()

    threading.Thread(target=put_all).start()
    numbers = []
    while not mailbox.finished:
        for queued in mailbox.take_all(WAIT_S, 8):
            assert queued.dropped == 0
            numbers.append(queued.frame.frame_id)
    assert numbers == list(range(50))


def test_a_stop_frees_who_waits_to_put() -> None:
    stop = threading.Event()
    mailbox = LosslessMailbox(stop)
    mailbox.put(frame("a", 0))
    waiting = threading.Thread(target=lambda: mailbox.put(frame("a", 1)))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    stop.set()
    waiting.join(WAIT_S)
    assert not waiting.is_alive()


def test_status_never_mixes_up_seeing_and_not_seeing() -> None:
    assert camera_status(is_open=False, silent_s=None, stall_timeout_s=0.5) is Status.NO_CAMERA
    assert camera_status(is_open=False, silent_s=0.1, stall_timeout_s=0.5) is Status.NO_CAMERA
    assert camera_status(is_open=True, silent_s=0.6, stall_timeout_s=0.5) is Status.STALLED
    assert camera_status(is_open=True, silent_s=0.4, stall_timeout_s=0.5) is Status.OK


def test_a_status_is_said_at_its_change_and_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    announcer = StatusAnnouncer()
    assert not announcer.due(Status.OK)
    assert announcer.due(Status.STALLED)
    assert not announcer.due(Status.STALLED)
    now += 0.9
    assert not announcer.due(Status.STALLED)
    now += 0.2
    assert announcer.due(Status.STALLED)
    assert announcer.due(Status.NO_CAMERA)
    assert not announcer.due(Status.OK)
    assert announcer.due(Status.STALLED)
