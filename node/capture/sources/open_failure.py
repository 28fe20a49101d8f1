"""Why OpenCV cannot open an address. OpenCV reports no reason, so FFmpeg, and where it reports none
either the server, is asked once more."""

import contextlib
import importlib.util
import socket
import time
from urllib.parse import urlsplit

from node.errors import AccessError, SourceError

_ATTEMPT_S = 2.0
"""Seconds for FFmpeg's second attempt."""
_ANSWER_S = 1.0
"""Seconds for a server's first answer."""
_TIMED_OUT = 0.9
"""Fraction of OpenCV's timeout; an attempt that fails after a longer time timed out."""
_CHECK_SERVER = "check that the server runs, and the port"
_CHECK_PATH = "check the path of the address"
_CHECK_NETWORK = "check the host and the network"
_UNKNOWN = (
    "cannot be opened",
    "check that the server runs and that address, user and password are right",
)
_CLOSES = ("closes the connection without an answer", _CHECK_SERVER)
_NO_VIDEO = (
    "delivers nothing that FFmpeg can read as video",
    "check port and path of the address, and that the server sends video",
)
_REASONS = {
    "ConnectionRefusedError": ("refuses the connection", _CHECK_SERVER),
    "ConnectionResetError": _CLOSES,
    "BrokenPipeError": _CLOSES,
    "HTTPForbiddenError": ("forbids the access (403)", "check the rights of this user"),
    "HTTPNotFoundError": ("has nothing at this address (404)", _CHECK_PATH),
    "HTTPTooManyRequestsError": ("refuses so many requests (429)", "close other viewers"),
    "HTTPBadRequestError": ("does not understand the request (400)", _CHECK_PATH),
    "HTTPOtherClientError": ("refuses the request (4xx)", "close other viewers; " + _CHECK_PATH),
    "HTTPServerError": ("reports an error of its own (5xx)", "check the server"),
    "ProtocolNotFoundError": (
        "has a scheme that FFmpeg does not know",
        "rtsp, http, https, rtmp, udp and tcp are usual",
    ),
    "TimeoutError": ("does not answer in time", _CHECK_NETWORK),
    "ExitError": ("does not answer in time", _CHECK_NETWORK),
    "InvalidDataError": _NO_VIDEO,
    "EOFError": _NO_VIDEO,
}
"""Reason and fix of PyAV's exceptions, by name."""
_ACCESS = {"HTTPUnauthorizedError", "HTTPForbiddenError", "HTTPTooManyRequestsError"}


def open_failure(label: str, address: str, began_s: float, timeout_s: float) -> SourceError:
    """Returns the error of an address that could not be opened; an AccessError if the server
    refuses this user or so many requests. Takes at most a few seconds.

    Args:
        label: start of the message.
        address: that OpenCV failed to open.
        began_s: start of the attempt, on the monotonic clock.
        timeout_s: of the attempt.
    """
    # A second attempt would only wait again.
    if time.monotonic() - began_s >= _TIMED_OUT * timeout_s:
        problem, fix = _silence(address) or (
            f"delivers no picture within {timeout_s:g} s",
            "check the host, the port and that the server sends",
        )
        return SourceError(f"{label} {problem}", fix=fix)
    error = _second_failure(address)
    problem, fix = _UNKNOWN if error is None else _reason(address, error)
    kind = AccessError if _ACCESS & _names(error) else SourceError
    return kind(f"{label} {problem}", fix=fix)


def _second_failure(address: str) -> Exception | None:
    """Returns how FFmpeg itself fails at an address; None if it succeeds, or is not installed."""
    if importlib.util.find_spec("av") is None:
        return None
    import av  # Deferred: takes 0.1 s.

    try:
        with av.open(address, options={"rtsp_transport": "tcp"}, timeout=(_ATTEMPT_S, _ATTEMPT_S)):
            return None
    except (av.FFmpegError, OSError, ValueError) as error:
        return error


def _names(error: Exception | None) -> set[str]:
    """The names of an exception's classes."""
    return {kind.__name__ for kind in type(error).__mro__}


def _reason(address: str, error: Exception) -> tuple[str, str]:
    names = [kind.__name__ for kind in type(error).__mro__]
    if "HTTPUnauthorizedError" in names:
        if "@" in address:
            return "refuses this user and password (401)", "check user and password"
        return "asks for user and password (401)", "write scheme://USER:PASSWORD@HOST/..."
    reason = next((_REASONS[name] for name in names if name in _REASONS), None)
    if reason is _NO_VIDEO:
        return _silence(address) or _NO_VIDEO
    if reason is not None:
        return reason
    if not _is_name_known(address):
        return "cannot be reached: its name is not known", "check the name, or write its IP address"
    text = getattr(error, "strerror", None)
    return (f"cannot be opened: {text}" if text else _UNKNOWN[0]), _UNKNOWN[1]


def _silence(address: str) -> tuple[str, str] | None:
    """Whether a server by TCP closes the connection without an answer, or answers in another
    protocol; None for neither."""
    with contextlib.suppress(ValueError, OSError):
        parts = urlsplit(address)
        scheme, port = parts.scheme.lower(), parts.port or 554
        if scheme not in ("rtsp", "tcp") or parts.hostname is None:
            return None
        with socket.create_connection((parts.hostname, port), _ANSWER_S) as connection:
            connection.settimeout(_ANSWER_S)
            if scheme == "rtsp":
                connection.sendall(b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n")
            answer = connection.recv(64)
        if not answer:
            return _CLOSES
        if scheme == "rtsp" and not answer.startswith(b"RTSP/"):
            return "does not answer in RTSP", "check the port and the scheme of the address"
    return None


def _is_name_known(address: str) -> bool:
    with contextlib.suppress(ValueError):
        host = urlsplit(address).hostname
        if host:
            try:
                socket.getaddrinfo(host, None)
            except (OSError, UnicodeError):
                return False
    return True
