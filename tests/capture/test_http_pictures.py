"""Pictures by http as cameras and proxies send them, and the reasons of failures."""

import io
import random
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import skimage
from PIL import Image as PilImage
from support.http_server import RawServer, answer, stream_head

from node.capture.picture_scanner import PictureScanner
from node.capture.sources.base import Picture, Source
from node.capture.sources.image_files import read_image
from node.capture.sources.media_kind import refusal
from node.capture.sources.open import open_source
from node.config.schema import CameraConfig
from node.errors import PictureError, SourceError
from node.image.frame import Image, Stamp
from node.image.jpeg import decode_jpeg, encode_jpeg
from node.image.opencv import cv2
from node.image.png_webp import decode_png_or_webp

PHOTO = cv2.resize(read_image(Path(skimage.__file__).parent / "data" / "chelsea.png"), (200, 136))
PERIOD_S = 0.02


def scene(number: int) -> Image:
    return np.roll(PHOTO, 5 * number, axis=1)


def jpeg(number: int = 0, quality: int = 85) -> bytes:
    return encode_jpeg(scene(number), quality)


JPEGS = [jpeg(number) for number in range(10)]


def written(format_name: str, number: int = 0, **options: object) -> bytes:
    buffer = io.BytesIO()
    PilImage.fromarray(scene(number)[:, :, ::-1]).save(buffer, format_name, **options)
    return buffer.getvalue()


def with_thumbnail(number: int = 0) -> bytes:
    """A JPEG whose EXIF segment holds a JPEG."""
    whole, small = jpeg(number), encode_jpeg(scene(number)[::4, ::4], 60)
    return whole[:2] + b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small + whole[2:]


def progressive(number: int = 0) -> bytes:
    return written("JPEG", number, progressive=True)


def with_restarts(number: int = 0) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, 85, cv2.IMWRITE_JPEG_RST_INTERVAL, 5]
    return cv2.imencode(".jpg", scene(number), options)[1].tobytes()


PART = b"\r\n--xyz\r\nContent-Type: image/jpeg\r\n\r\n"


def scanned(data: bytes, size: int) -> list[bytes]:
    """The pictures in data that comes in pieces of a size."""
    scanner = PictureScanner()
    return [
        picture
        for start in range(0, len(data), size)
        for picture, _ in scanner.feed(data[start : start + size], Stamp.now())
    ]


# The scanner: whole pictures, whatever is between them and however the bytes are cut.


@pytest.mark.parametrize("between", [b"", PART, b"hello\n", b"\0\0\xff\xd9", b"\xff" * 3])
@pytest.mark.parametrize("size", [1, 13, 1460, 1 << 20])
def test_pictures_are_found_whatever_is_between_them(between: bytes, size: int) -> None:
    pictures = [
        jpeg(), with_thumbnail(), progressive(), with_restarts(), written("PNG"),
        written("WEBP"), jpeg(3, 50),
    ]  # fmt: skip
    data = between + between.join(pictures) + between
    assert scanned(data, size) == pictures


@pytest.mark.parametrize("kept", [0.0005, 0.01, 0.1, 0.3, 0.6, 0.9, 0.9999])
@pytest.mark.parametrize("make", [jpeg, with_thumbnail, progressive, with_restarts])
def test_a_picture_that_is_cut_off_costs_no_other(
    make: Callable[[int], bytes], kept: float
) -> None:
    whole = make(0)
    cut = whole[: max(3, int(kept * len(whole)))]
    data = PART + PART.join([cut, jpeg(1), make(2), jpeg(3)]) + PART
    pictures = scanned(data, 999)
    assert pictures[0] == b""
    assert [picture for picture in pictures if picture] == [jpeg(1), make(2), jpeg(3)]


@pytest.mark.parametrize("offset", [4, 5, 30, 200])
def test_the_preview_of_a_damaged_picture_is_no_picture(offset: int) -> None:
    damaged = bytearray(with_thumbnail())
    damaged[offset] ^= 0xA5
    pictures = scanned(PART + bytes(damaged) + PART + PART.join([jpeg(1)] * 20) + PART, 999)
    for picture in pictures[1:]:
        assert picture == jpeg(1) or not picture
    assert pictures[-1] == jpeg(1)


def test_a_picture_that_is_found_late_has_the_stamp_of_its_arrival() -> None:
    damaged = bytearray(with_thumbnail())
    damaged[4] ^= 0x80  # a segment that is longer, into the pictures after it
    scanner = PictureScanner()
    pictures = []
    for number, body in enumerate([bytes(damaged), *[jpeg(index) for index in range(1, 20)]]):
        pictures += scanner.feed(PART + body, Stamp.at_media(number))
    assert pictures[0][0] == b""
    stamps = {data: stamp.unix_ns for data, stamp in pictures if data}
    assert len(stamps) > 10
    assert all(stamps[jpeg(number)] == number for number in range(1, 20) if jpeg(number) in stamps)
    assert sorted(stamp.unix_ns for _, stamp in pictures) == [
        stamp.unix_ns for _, stamp in pictures
    ]


def test_random_bytes_give_no_end_of_work() -> None:
    chance = random.Random(4)
    scanner = PictureScanner()
    for _ in range(200):
        scanner.feed(b"\xff\xd8\xff" + chance.randbytes(500), Stamp.now())


@pytest.mark.parametrize("format_name", ["PNG", "WEBP"])
def test_png_and_webp_are_decoded_and_damage_in_them_is_said(format_name: str) -> None:
    data = written(format_name, lossless=True)
    assert np.array_equal(decode_png_or_webp(data), PHOTO)
    for bad in (data[: len(data) // 2], data[:12] + bytes(40) + data[52:], data[:10]):
        with pytest.raises(PictureError, match="damaged"):
            decode_png_or_webp(bad)


def test_a_png_that_claims_to_be_huge_is_refused() -> None:
    data = bytearray(written("PNG"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(PictureError, match=r"60000 x 60000 pixels are more|damaged"):
        decode_png_or_webp(bytes(data))


# Motion JPEG as browsers show it.


def streamed(head: bytes, frame: Callable[[bytes], bytes]) -> Callable[..., Iterator[bytes]]:
    def reply(number: int, request: bytes) -> Iterator[bytes]:
        yield head
        for picture in JPEGS:
            yield frame(picture)
            time.sleep(PERIOD_S)  # the camera's own period

    return reply


def parted(boundary: str, headers: str = "Content-Type: image/jpeg\r\n", end: str = "\r\n"):
    def frame(picture: bytes) -> bytes:
        return f"{boundary}{end}{headers}{end}".encode() + picture + end.encode()

    return frame


def chunked(picture: bytes) -> bytes:
    body = parted("--frame")(picture)
    half = len(body) // 2
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (body[:half], body[half:]))


MULTIPART = "multipart/x-mixed-replace; boundary="
VARIANTS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "usual": (stream_head(), parted("--frame")),
    "quoted boundary": (stream_head(MULTIPART + '"a b"'), parted("--a b")),
    "dashes in the boundary": (stream_head(MULTIPART + "--frame"), parted("--frame")),
    "without the dashes": (stream_head(MULTIPART + "frame"), parted("frame")),
    "another boundary": (stream_head(MULTIPART + "frame"), parted("--other")),
    "no boundary declared": (stream_head("multipart/x-mixed-replace"), parted("--frame")),
    "line feeds": (stream_head(), parted("--frame", "Content-Type: image/jpeg\n", "\n")),
    "mixed": (stream_head("Multipart/Mixed;boundary=frame"), parted("--frame")),
    "length too short": (stream_head(), parted("--frame", "Content-Length: 100\r\n")),
    "length too long": (stream_head(), parted("--frame", "Content-Length: 9999999\r\n")),
    "other type of a part": (stream_head(), parted("--frame", "content-type: image/pjpeg;q=1\r\n")),
    "many headers": (stream_head(), parted("--frame", "X-Timestamp: 1.5\r\nX-A: b\r\n")),
    "text before": (stream_head() + b"Hello, this is a stream.\n\n", parted("--frame")),
    "empty parts": (stream_head(), lambda x: b"--frame\r\n\r\n--frame\r\nContent-Length: 0\r\n\r\n"
                    b"\r\n" + parted("--frame")(x)),
    "parts end in dashes": (stream_head(), lambda x: parted("--frame")(x) + b"--frame--\r\n"),
    "no multipart": (stream_head("image/jpeg"), lambda x: x),
    "no type at all": (b"HTTP/1.0 200 OK\n\n", lambda x: x),
    "another type": (stream_head("text/plain"), parted("--frame")),
    "octets": (stream_head("application/octet-stream"), lambda x: x + b"\0" * 5),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: "
                + MULTIPART.encode() + b"frame\r\n\r\n", chunked),
}  # fmt: skip


def read(source: Source, count: int) -> list[Picture]:
    try:
        pictures = [source.read() for _ in range(count)]
    finally:
        source.close()
    return [picture for picture in pictures if picture is not None]


@pytest.mark.parametrize("name", VARIANTS)
def test_motion_jpeg_that_browsers_show_is_read(name: str) -> None:
    with RawServer(streamed(*VARIANTS[name])) as server:
        source = open_source(CameraConfig(source=server.url, discard_backlog=False))
        pictures = read(source, len(JPEGS))
    assert [picture.jpeg for picture in pictures] == JPEGS
    assert np.array_equal(pictures[0].image, decode_jpeg(JPEGS[0]))


@pytest.mark.parametrize("format_name", ["PNG", "WEBP"])
def test_other_pictures_than_jpeg_are_read(format_name: str) -> None:
    kinds = [written(format_name, number, lossless=True) for number in range(6)]

    def reply(number: int, request: bytes) -> Iterator[bytes]:
        yield stream_head()
        for picture in kinds:
            yield parted("--frame", f"Content-Type: image/{format_name.lower()}\r\n")(picture)
            time.sleep(PERIOD_S)  # the camera's own period

    with RawServer(reply) as server:
        source = open_source(CameraConfig(source=server.url, discard_backlog=False))
        pictures = [source.read() for _ in kinds]
        source.close()
    for number, picture in enumerate(pictures):
        assert picture is not None
        assert picture.jpeg is None
        assert np.array_equal(picture.image, scene(number))


def test_the_stamp_is_the_arrival_of_the_last_byte_and_not_of_the_next_boundary() -> None:
    sent_ns: list[int] = []

    def reply(number: int, request: bytes) -> Iterator[bytes]:
        yield stream_head()
        for picture in [*JPEGS, *JPEGS]:
            body = parted("--frame")(picture)[:-2]
            yield body[: len(body) // 2]
            time.sleep(0.05)  # the picture's second half comes later
            sent_ns.append(time.monotonic_ns())
            yield body[len(body) // 2 :]
            time.sleep(0.15)  # the camera's own period

    with RawServer(reply) as server:
        source = open_source(CameraConfig(source=server.url, discard_backlog=False))
        pictures = [source.read() for _ in range(8)]
        source.close()
    delays_ns = [
        picture.stamp.mono_ns - sent
        for picture, sent in zip(pictures, sent_ns, strict=False)
        if picture is not None and picture.stamp is not None and picture.stamp.mono_ns is not None
    ]
    assert len(delays_ns) == 8
    assert min(delays_ns) > 0
    assert sorted(delays_ns)[4] < 0.05e9


# Still pictures.


def still(body: Callable[[int], bytes], content_type: str = "image/jpeg") -> RawServer:
    return RawServer(lambda number, request: [answer(body(number), content_type)])


def test_a_still_picture_is_requested_at_the_rate_of_the_camera_and_its_age_is_bounded() -> None:
    with still(jpeg) as server:
        source = open_source(CameraConfig(source=server.url, fps=20))
        began_s = time.monotonic()
        pictures = [source.read() for _ in range(10)]
        took_s = time.monotonic() - began_s
        source.close()
    assert took_s >= 9 / 20
    assert 11 <= server.connections <= 14
    assert [picture.jpeg for picture in pictures if picture] == [
        jpeg(number) for number in range(1, 11)
    ]
    for picture in pictures:
        assert picture is not None
        assert picture.stamp is not None
        assert picture.stamp.uncertainty_ns is not None
        assert 0.05e9 <= picture.stamp.uncertainty_ns < 2e9


def test_the_time_in_a_cache_is_part_of_the_bound() -> None:
    with RawServer(lambda number, _: [answer(jpeg(number), "image/jpeg", "Age: 30")]) as server:
        (picture,) = read(open_source(CameraConfig(source=server.url, fps=50)), 1)
    assert picture.stamp is not None
    assert 30e9 <= (picture.stamp.uncertainty_ns or 0) < 32e9


def test_max_fps_slows_the_requests() -> None:
    with still(jpeg) as server:
        source = open_source(CameraConfig(source=server.url, fps=50, max_fps=10))
        began_s = time.monotonic()
        for _ in range(4):
            source.read()
        assert time.monotonic() - began_s >= 0.35
        source.close()


def test_a_still_picture_that_does_not_change_is_not_shown_again() -> None:
    """A camera that takes a picture less often than it is requested."""
    with still(lambda number: jpeg(number // 5)) as server:
        source = open_source(CameraConfig(source=server.url, fps=100))
        pictures = [source.read() for _ in range(4)]
        source.close()
    assert [picture.jpeg for picture in pictures if picture] == [
        jpeg(number) for number in range(1, 5)
    ]


def test_a_scene_that_may_stand_still_is_shown_by_each_request() -> None:
    with still(lambda number: jpeg()) as server:
        config = CameraConfig(source=server.url, fps=100, detect_frozen=False)
        source = open_source(config)
        assert all(source.read() is not None for _ in range(5))
        source.close()


@pytest.mark.parametrize(
    "whole",
    [
        lambda number: stream_head() + parted("--frame")(jpeg(number)) + b"--frame--\r\n",
        lambda number: stream_head("image/jpeg") + jpeg(number),
        lambda number: answer(written("PNG", number), "image/png"),
        lambda number: answer(jpeg(number) + encode_jpeg(scene(0)[::4, ::4], 80), "image/jpeg"),
        lambda number: answer(progressive(number), "application/octet-stream"),
    ],
)
def test_each_answer_with_one_picture_is_a_still_picture(whole: Callable[[int], bytes]) -> None:
    with RawServer(lambda number, request: [whole(number)]) as server:
        source = open_source(CameraConfig(source=server.url, fps=50))
        pictures = [source.read() for _ in range(5)]
        source.close()
    assert all(picture is not None and picture.image.shape == PHOTO.shape for picture in pictures)


def test_one_request_that_fails_is_no_outage_and_two_are() -> None:
    broken = {4, 8, 9}

    def reply(number: int, request: bytes) -> list[bytes]:
        return [answer(b"", status="503 Busy") if number in broken else answer(jpeg(number))]

    with RawServer(reply) as server:
        source = open_source(CameraConfig(source=server.url, fps=100))
        for _ in range(6):
            assert source.read() is not None
        with pytest.raises(SourceError, match=r"is busy.*\(503\)"):
            source.read()
        source.close()


def test_closing_ends_a_wait_at_once() -> None:
    silent = threading.Event()

    def reply(number: int, request: bytes) -> Iterator[bytes]:
        yield stream_head()
        silent.wait(20)

    with RawServer(reply) as server:
        source = open_source(CameraConfig(source=server.url))
        began_s = time.monotonic()
        source.close()
        assert time.monotonic() - began_s < 0.4
    silent.set()


# Reasons.

TEXT_NOT_BINARY = b"this is text\n" * 30
FRAGMENTED = (24).to_bytes(4, "big") + b"ftypiso5" + bytes(60) + b"mvex" + bytes(600)
ENDLESS_WEBM = b"\x1a\x45\xdf\xa3" + bytes(30) + b"\x18\x53\x80\x67\x01" + b"\xff" * 7 + bytes(60)
MP4 = (24).to_bytes(4, "big") + b"ftypisom" + bytes(600)
TS = (b"\x47" + bytes(187)) * 4
REFUSED: dict[str, tuple[bytes, str]] = {
    "401": (answer(b"", status="401 No"), r"asks for user and password \(401\); write user"),
    "403": (answer(b"", status="403 No"), r"forbids the access \(403\)"),
    "404": (answer(b"", status="404 No"), r"has nothing at this address \(404\)"),
    "500": (answer(b"", status="500 No"), r"an error of its own \(500\)"),
    "418": (answer(b"", status="418 No"), "HTTP status 418"),
    "204": (answer(b"", status="204 No"), "HTTP status 204"),
    "empty": (answer(b"", "image/jpeg"), "answers with an empty body"),
    "closed": (b"", "closes the connection without an answer"),
    "not http": (b"SSH-2.0-x\r\n", "does not answer in HTTP"),
    "html": (answer(b"<!DOCTYPE html><html>", "text/html"), "is an HTML page"),
    "html of no type": (answer(b"\n <HTML><title>x", ""), "is an HTML page"),
    "json": (answer(b'{"a": 1}', "application/json"), r"is a text \(application/json\)"),
    "text": (answer(TEXT_NOT_BINARY, "text/plain"), r"is a text \(text/plain\)"),
    "gif": (answer(b"GIF89a" + bytes(60), "image/gif"), "is a picture of type GIF"),
    "bmp": (answer(b"BM" + bytes(60), ""), "is a picture of type BMP"),
    "unknown picture": (answer(b"\x01\x02" * 60, "image/x-y"), r"unknown type \(image/x-y\)"),
    "sound": (answer(b"\x01\x02" * 60, "audio/mpeg"), r"is sound \(audio/mpeg\)"),
    "hls": (answer(b"#EXTM3U\n#EXTINF:2,\na.ts\n", "text/plain"), "playlist of HLS.*seconds old"),
    "hls by type": (answer(b"\xef\xbb\xbf#x\n", "Application/X-MpegURL"), "playlist of HLS"),
    "dash": (answer(b'<?xml version="1.0"?>\n<MPD>', "text/xml"), "playlist of DASH"),
    "mp4": (answer(MP4, "video/mp4"), r"recorded video of .* MB \(MP4\).*discard_backlog = false"),
    "mp4 without length": (stream_head("video/mp4") + MP4, r"recorded video \(MP4\)"),
    "webm": (stream_head("") + b"\x1a\x45\xdf\xa3" + bytes(60), "Matroska or WebM"),
    "ts file": (answer(TS, ""), r"a recorded video of .* MB \(MPEG-TS\)"),
    "half a picture": (stream_head() + PART + jpeg()[:900], "ends within its first picture"),
    "parts of text": (stream_head() + b"--x\r\nContent-Type: text/plain\r\n\r\n" * 9,
                      "no picture: it is multipart/x-mixed-replace with parts of type text/plain"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("head", "length"),
    [
        (FRAGMENTED, None), (ENDLESS_WEBM, None), (TS, None), (TS, (1 << 31) - 1),
        (b"\0\0\0\1\x67" + bytes(60), None), (b"FLV\x01" + bytes(60), None), (b"\x81" * 600, None),
    ],
)  # fmt: skip
def test_video_without_an_end_is_not_refused(head: bytes, length: int | None) -> None:
    assert refusal("video/any", head, length) is None


def refusal_of(url: str) -> str:
    try:
        source = open_source(CameraConfig(source=url))
        read(source, 1)
    except SourceError as error:
        return str(error)
    return "not refused"


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_its_reason(name: str) -> None:
    reply, reason = REFUSED[name]
    with RawServer(reply) as server:
        text = refusal_of(server.url)
        assert f"http://{server.host}/..." in text
    assert re.search(reason, text), text
    assert "\n" not in text


def test_a_redirection_is_named_and_followed() -> None:
    def to(url: str, status: str = "302 Found") -> bytes:
        return answer(b"", "", f"Location: {url}", status=status)

    with (
        RawServer(answer(b"", status="404 No")) as elsewhere,
        RawServer(to(elsewhere.url)) as server,
    ):
        text = refusal_of(server.url)
        assert f"redirects to http://{elsewhere.host}/..., which has nothing" in text
    with RawServer(to("http://127.0.0.1:9/x", "301 Moved")) as server:
        assert "redirects to http://127.0.0.1:9/..., which refuses the" in refusal_of(server.url)
    with RawServer(to("rtsp://127.0.0.1:9/x")) as server:
        assert "redirects to an address that is not http" in refusal_of(server.url)
    with RawServer(to("/again")) as server:
        assert "redirects without end" in refusal_of(server.url)
    with still(jpeg) as elsewhere, RawServer(to(elsewhere.url, "307 Moved")) as server:
        source = open_source(CameraConfig(source=server.url, fps=50))
        assert source.read() is not None
        source.close()


@pytest.mark.parametrize("scheme", ["Basic", "Digest"])
def test_user_and_password_go_to_the_server_that_asks_and_to_no_other(scheme: str) -> None:
    challenge = f'{scheme} realm="cam", nonce="abc", qop="auth", algorithm=SHA-256'

    def reply(number: int, request: bytes) -> list[bytes]:
        if b"Authorization: " + scheme.encode() in request:
            return [answer(jpeg(number), "image/jpeg")]
        return [answer(b"", "", f"WWW-Authenticate: {challenge}", status="401 No")]

    with RawServer(reply) as server:
        source = open_source(CameraConfig(source=f"http://a%40b:c%2Fd@{server.host}/x", fps=50))
        assert source.read() is not None
        source.close()
        assert b"Authorization" not in server.requests[0]
        with RawServer(answer(b"", "", f"Location: {server.url}", status="302 x")) as first:
            text = refusal_of(f"http://ann:secret@{first.host}/x")
            assert "asks for user and password (401)" in text
            assert not any(b"uthorization" in request for request in first.requests)
    with RawServer(lambda number, request: [reply(0, b"")[0]]) as server:
        text = refusal_of(f"http://ann:secret@{server.host}/x")
        assert "refuses this user and password (401)" in text
        assert "secret" not in text


def test_a_server_that_cannot_be_reached_is_named() -> None:
    assert "its name is not known" in refusal_of("http://no-such-host.invalid/x")
    assert "its name is not known" in refusal_of("rtsp://no-such-host.invalid/x")
    assert "has a scheme that FFmpeg does not know" in refusal_of("htpt://127.0.0.1/x")
    assert "refuses the connection" in refusal_of("tcp://127.0.0.1:9")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    file = tmp_path / "both.pem"
    subject = ["-subj", "/CN=cam", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
               "-nodes", "-days", "2", *subject, "-keyout", str(file),
               "-out", str(tmp_path / "c")]  # fmt: skip
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl, which makes a certificate, is not on this computer")
    file.write_bytes(file.read_bytes() + (tmp_path / "c").read_bytes())
    return file


def test_a_certificate_that_nobody_trusts_is_named_and_may_be_trusted(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with RawServer(lambda number, _: [answer(jpeg(number), "image/jpeg")], context) as server:
        url = f"https://{server.host}/x"
        assert "has a TLS certificate that is not trusted (self" in refusal_of(url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert len(read(open_source(CameraConfig(source=url, fps=50)), 2)) == 2
    with still(jpeg) as plain:
        assert "does not answer in TLS" in refusal_of(f"https://{plain.host}/x")


RTSP_REASONS = {
    401: "asks for user and password (401)",
    403: "forbids the access (403)",
    404: "has nothing at this address (404)",
    503: "an error of its own",
}


@pytest.mark.parametrize("status", RTSP_REASONS)
def test_a_refusal_by_rtsp_names_its_reason(status: int) -> None:
    def reply(number: int, request: bytes) -> list[bytes]:
        sequence = next(line for line in request.split(b"\r\n") if line.lower().startswith(b"cseq"))
        return [b"RTSP/1.0 %d x\r\n%b\r\n\r\n" % (status, sequence)]

    with RawServer(reply) as server:
        assert RTSP_REASONS[status] in refusal_of(f"rtsp://{server.host}/x")


def test_a_server_of_another_protocol_is_named() -> None:
    with RawServer(b"HTTP/1.1 400 Bad Request\r\n\r\n") as server:
        assert "does not answer in RTSP" in refusal_of(f"rtsp://{server.host}/x")
    with RawServer(b"") as server:
        assert "closes the connection" in refusal_of(f"rtsp://{server.host}/x")


def test_a_server_for_one_viewer_may_need_a_moment() -> None:
    """It is asked what it serves, then read in another connection."""
    context = av.CodecContext.create("libx264", "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = 200, 136, "yuv420p"
    context.time_base, context.framerate = Fraction(1, 50), Fraction(50)
    context.options = {"preset": "ultrafast", "tune": "zerolatency"}
    frames = [av.VideoFrame.from_ndarray(scene(index), format="bgr24") for index in range(150)]
    packets = [bytes(packet) for frame in frames for packet in context.encode(frame)]

    def reply(number: int, request: bytes) -> Iterator[bytes]:
        if number == 1:
            yield answer(b"", status="503 Busy")
            return
        yield stream_head("video/h264")
        for packet in packets:
            yield packet
            time.sleep(0.02)  # the camera's own period

    with RawServer(reply) as server:
        source = open_source(CameraConfig(source=server.url, discard_backlog=False))
        (picture,) = read(source, 1)
    assert picture.image.shape == PHOTO.shape


def test_parts_of_another_type_are_named_however_slowly_they_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.capture.packets.STREAM_TIMEOUT_S", 0.6)

    def reply(number: int, request: bytes) -> Iterator[bytes]:
        yield stream_head()
        for _ in range(100):
            yield parted("--frame", "Content-Type: image/gif\r\n")(b"GIF89a" + bytes(90))
            time.sleep(0.05)  # the camera's own period

    with RawServer(reply) as server:
        assert "with parts of type image/gif; JPEG, PNG" in refusal_of(server.url)


def test_a_server_that_says_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.capture.packets.STREAM_TIMEOUT_S", 0.6)
    silent = threading.Event()

    def reply(number: int, request: bytes) -> Iterator[bytes]:
        yield stream_head() if b"/stream" in request else b""
        silent.wait(10)

    with RawServer(reply) as server:
        text = refusal_of(server.url)
        assert "accepts the request and then is silent: nothing came for 0.6 s" in text
        assert "does not answer within 0." in refusal_of(f"http://{server.host}/other")
    silent.set()


def slowly(head: bytes, piece: bytes) -> Iterator[bytes]:
    """Each reception is in time."""
    yield head
    for _ in range(200):
        time.sleep(0.05)
        yield piece


SLOW = {
    "a header that goes on": (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", "does not answer within"),
    "answers before the answer": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", "does not answer within"),
    "a text": (answer(b"", "text/plain"), b"a", "is a text"),
    "a picture": (stream_head("image/jpeg") + jpeg()[:300], b"\1", "no whole picture came"),
}


@pytest.mark.parametrize("name", SLOW)
def test_a_server_that_sends_a_byte_at_a_time_holds_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.capture.packets.STREAM_TIMEOUT_S", 0.6)
    head, piece, reason = SLOW[name]
    head = head.replace(b"Content-Length: 0\r\n", b"")
    began_s = time.monotonic()
    with RawServer(lambda number, _: slowly(head, piece)) as server:
        assert reason in refusal_of(server.url)
    assert time.monotonic() - began_s < 4


def test_a_still_picture_whose_server_becomes_slow_is_an_outage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.capture.packets.STREAM_TIMEOUT_S", 0.6)

    def reply(number: int, request: bytes) -> Iterable[bytes]:
        if number < 3:
            return [answer(jpeg(number), "image/jpeg")]
        return slowly(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n")

    with RawServer(reply) as server:
        source = open_source(CameraConfig(source=server.url, fps=50))
        began_s = time.monotonic()
        with pytest.raises(SourceError, match="does not answer within"):
            read(source, 10)
    assert time.monotonic() - began_s < 4


@pytest.mark.parametrize("status", ["302 Found", "401 No"])
def test_the_body_of_an_answer_that_leads_on_is_not_read(status: str) -> None:
    head = f"HTTP/1.1 {status}\r\nLocation: /next\r\nWWW-Authenticate: Digest nonce=a, realm=b\r\n"
    sent = 0

    def reply(number: int, request: bytes) -> Iterator[bytes]:
        nonlocal sent
        yield head.encode() + b"\r\n"
        for _ in range(1 << 10):
            yield bytes(1 << 20)
            sent += 1

    with RawServer(reply) as server:
        text = refusal_of(f"http://ann:secret@{server.host}/x")
    assert "redirects without end" in text or "refuses this user and password" in text
    assert sent < 100


def test_an_answer_to_a_challenge_goes_to_no_other_server() -> None:
    challenge = 'WWW-Authenticate: Digest realm="cam", nonce="abc", qop="auth"'
    asks = answer(b"", "", challenge, status="401 No")
    with RawServer(asks) as elsewhere:
        there = answer(b"", "", f"Location: {elsewhere.url}", status="302 Found")
        with RawServer(lambda _, request: [there if b"Digest " in request else asks]) as server:
            text = refusal_of(f"http://ann:secret@{server.host}/x")
    assert f"redirects to http://{elsewhere.host}/..., which asks for user and password" in text
    assert elsewhere.requests
    assert not any(b"uthorization" in request for request in elsewhere.requests)


@pytest.mark.parametrize("target", ["http://[::1", "http://127.0.0.1:99999/", "http://h:0/"])
def test_a_redirection_to_nowhere_is_named(target: str) -> None:
    with RawServer(answer(b"", "", f"Location: {target}", status="302 Found")) as server:
        assert "redirects to a malformed address" in refusal_of(server.url)
