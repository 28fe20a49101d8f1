"""A small RTSP server's half of a connection: RTP interleaved in TCP (RFC 2326), with H.264 (RFC
6184), H.265 (RFC 7798) and motion JPEG (RFC 2435)."""

import base64
import socket
import struct
from collections.abc import Iterator

from node.image.h26x.annex_b import units

CLOCK_HZ = 90_000
_MTU = 1400
_TYPES = {"mjpeg": 26, "h264": 96, "hevc": 96}
MOST_JPEG_PX = 2040
"""RFC 2435 writes width and height in 8 pixels a step, in one byte."""


def handshake(connection: socket.socket, codec: str, first: bytes) -> bool:
    """Answers requests until PLAY; whether that came. first: a key frame, for its parameters."""
    data = b""
    while True:
        while b"\r\n\r\n" not in data:
            more = connection.recv(4096)
            if not more:
                return False
            data += more
        head, _, data = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        method, url = lines[0].split()[:2]
        number = next(
            (line.partition(":")[2] for line in lines if line.lower().startswith("cseq")), "0"
        )
        connection.sendall(_answer(method, url, number.strip(), codec, first))
        if method == "PLAY":
            return True


def _answer(method: str, url: str, number: str, codec: str, first: bytes) -> bytes:
    head, body = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n", ""
    match method:
        case "OPTIONS":
            head += "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER\r\n"
        case "DESCRIBE":
            body = _description(codec, first)
            head += f"Content-Base: {url}/\r\nContent-Type: application/sdp\r\n"
        case "SETUP":
            head += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
        case _:
            head += "Session: 1\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def _description(codec: str, first: bytes) -> str:
    number = _TYPES[codec]
    lines = ["v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=numbered", "c=IN IP4 127.0.0.1", "t=0 0",
             f"m=video 0 RTP/AVP {number}", "a=control:track"]  # fmt: skip
    if codec == "h264":
        sets = [base64.b64encode(unit).decode() for unit in units(first) if unit[0] & 31 in (7, 8)]
        lines.append(f"a=rtpmap:{number} H264/90000")
        lines.append(f"a=fmtp:{number} packetization-mode=1;sprop-parameter-sets={','.join(sets)}")
    elif codec == "hevc":
        sets = [
            base64.b64encode(unit).decode()
            for unit in units(first)
            if unit[0] >> 1 & 63 in (32, 33, 34)
        ]
        lines.append(f"a=rtpmap:{number} H265/90000")
        lines.append("a=fmtp:{} sprop-vps={};sprop-sps={};sprop-pps={}".format(number, *sets))
    return "\r\n".join(lines) + "\r\n"


class Packetiser:
    """Turns pictures into interleaved RTP packets."""

    def __init__(self, codec: str) -> None:
        self._codec = codec
        self._sequence = 0

    def packets(self, picture: bytes, stamp: int) -> bytes:
        """All of one picture. stamp: of CLOCK_HZ."""
        payloads = {"mjpeg": _jpeg, "h264": _h264, "hevc": _hevc}[self._codec](picture)
        whole, payload = b"", next(payloads)
        for following in payloads:
            whole += self._packet(payload, stamp, last=False)
            payload = following
        return whole + self._packet(payload, stamp, last=True)

    def _packet(self, payload: bytes, stamp: int, *, last: bool) -> bytes:
        kind = _TYPES[self._codec] | (128 if last else 0)
        head = struct.pack(">BBHII", 128, kind, self._sequence, stamp & 0xFFFFFFFF, 1)
        self._sequence = self._sequence + 1 & 0xFFFF
        return struct.pack(">cBH", b"$", 0, len(head) + len(payload)) + head + payload


def _h264(picture: bytes) -> Iterator[bytes]:
    for unit in units(picture):
        yield from _fragments(unit, bytes([unit[0] & 0x60 | 28]), unit[0] & 31, 1)


def _hevc(picture: bytes) -> Iterator[bytes]:
    for unit in units(picture):
        head = bytes([unit[0] & 0x81 | 49 << 1, unit[1]])
        yield from _fragments(unit, head, unit[0] >> 1 & 63, 2)


def _fragments(unit: bytes, head: bytes, kind: int, header_bytes: int) -> Iterator[bytes]:
    if len(unit) <= _MTU:
        yield unit
        return
    for offset in range(header_bytes, len(unit), _MTU):
        start, end = offset == header_bytes, offset + _MTU >= len(unit)
        flags = start << 7 | end << 6 | kind
        yield head + bytes([flags]) + unit[offset : offset + _MTU]


def _jpeg(picture: bytes) -> Iterator[bytes]:
    """Baseline JPEG with the standard Huffman tables, colours at half resolution."""
    tables, size, start = b"", (0, 0), 2
    while picture[start + 1] != 0xDA:
        kind, (length,) = picture[start + 1], struct.unpack(">H", picture[start + 2 : start + 4])
        body = picture[start + 4 : start + 2 + length]
        if kind == 0xDB:
            for at in range(0, len(body), 65):
                tables += body[at + 1 : at + 65]
        elif kind == 0xC0:
            size = struct.unpack(">HH", body[1:5])
        start += 2 + length
    (length,) = struct.unpack(">H", picture[start + 2 : start + 4])
    scan = picture[start + 2 + length :].removesuffix(b"\xff\xd9")
    for offset in range(0, len(scan), _MTU):
        head = struct.pack(">I", offset) + bytes([1, 255, size[1] // 8, size[0] // 8])
        if not offset:
            head += struct.pack(">BBH", 0, 0, len(tables)) + tables
        yield head + scan[offset : offset + _MTU]
