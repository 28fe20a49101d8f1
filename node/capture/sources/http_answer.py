"""HttpAddress: requests an http or https address, once or again and again, and names the reason of
each failure."""

import http.client
import socket
import ssl
import time
from collections.abc import Generator
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import requests
import urllib3
from requests.auth import AuthBase, HTTPBasicAuth, HTTPDigestAuth

from node.capture.sources.http_deadline import DeadlineAdapter
from node.config.redact import redacted
from node.errors import AccessError, SourceError

CHECK_ADDRESS = "check the address"
CHECK_LOGIN = "write user and password into the address: http://USER:PASSWORD@HOST/..."
_CONNECT_S = 5.0
_READ_BYTES = 1 << 16
_MOST_REDIRECTIONS = 5
_MOST_COOKIES = 50
_HEADERS = {
    "User-Agent": "perception-node",
    "Accept": "*/*",
    "Accept-Encoding": "identity",
    "Cache-Control": "no-cache",  # a cached picture is old
}
_STATUS_REASONS = {
    403: ("forbids the access (403)", "check the rights of this user at the camera"),
    404: ("has nothing at this address (404)", CHECK_ADDRESS),
    405: ("allows no GET at this address (405)", CHECK_ADDRESS),
    410: ("has nothing at this address any more (410)", CHECK_ADDRESS),
    429: ("refuses so many requests (429)", "lower the camera's fps"),
    503: ("is busy, or allows no further viewer (503)", "close other viewers of the camera"),
}
_ACCESS = (401, 403, 429)
_ERRORS = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
    ValueError,  # of a malformed address or header
)


class HttpAnswer:
    """The answer to one request, with status 200.

    Args:
        response: of requests, its body unread.
        label: start of each error message; names a redirection, too.
        timeout_s: between two receptions.

    Attributes:
        label: as given.
        media_type: the Content-Type without parameters, in lower case; may be empty.
        length: bytes of the body; None if the server does not declare it.
        cached_ns: how long a cache between this computer and the server has kept the body.
    """

    def __init__(self, response: requests.Response, label: str, timeout_s: float) -> None:
        self._response = response
        self.label = label
        self._timeout_s = timeout_s
        self._head = b""
        self._began = self._ended = False
        self.media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        age = response.headers.get("Age", "")  # RFC 9111, 5.1: seconds
        self.cached_ns = int(age) * 1_000_000_000 if age.isdecimal() and len(age) < 9 else 0
        length = response.headers.get("Content-Length", "")
        self.length = int(length) if length.isdecimal() else None

    @property
    def is_multipart(self) -> bool:
        """Whether the server declares a multipart body."""
        return self.media_type.startswith("multipart/")

    def peek(self, count: int) -> bytes:
        """Returns the first bytes of the body, `count` of them if as many come in time. Raises
        SourceError. Only valid before `read`."""
        began_s = time.monotonic()
        while len(self._head) < count and not self._ended:
            self._head += self._receive()
            if time.monotonic() - began_s > self._timeout_s:
                break
        return self._head

    def read(self) -> bytes:
        """Returns the bytes that came, once there are some; none at the end. Raises SourceError."""
        if self._head:
            head, self._head = self._head, b""
            return head
        return b"" if self._ended else self._receive()

    def close(self) -> None:
        """Closes the connection unless the whole body was read."""
        self._response.close()

    def interrupt(self) -> None:
        """Ends a `read` in progress on another thread."""
        try:
            self._response.raw.shutdown()
        except (ValueError, RuntimeError, OSError, AttributeError):
            return  # closed already

    def _receive(self) -> bytes:
        try:
            data: bytes = self._response.raw.read1(_READ_BYTES, decode_content=True)
        except _ERRORS as error:
            reason = _broken_off(error, self._timeout_s, began=self._began)
            raise SourceError(f"{self.label} {reason}") from error
        self._began = True
        self._ended = not data
        return data


class HttpAddress:
    """One http or https address. One thread at a time may use it.

    User and password of the address are sent by the scheme that the server asks for, and to no
    other server.

    Args:
        address: with user and password, if any.
        label: start of each error message.
        timeout_s: for the answer, and between two receptions.
    """

    def __init__(self, address: str, label: str, timeout_s: float) -> None:
        self._label = label
        self._timeout_s = timeout_s
        self._session = _Session()
        self._session.headers.update(_HEADERS)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, DeadlineAdapter())
        self._auth: AuthBase | None = None
        try:
            parts = urlsplit(address)
            self._origin = _origin(address)
        except ValueError:
            # The reason may hold a part of the password.
            raise SourceError(
                f"{label}: the address is malformed",
                fix="write http://USER:PASSWORD@HOST:PORT/PATH, with %2F for / and %40 for @ in "
                "the password",
            ) from None
        login, _, host = parts.netloc.rpartition("@")
        user, _, password = login.partition(":")
        self._login = (unquote(user), unquote(password)) if login else None
        self._url = urlunsplit(parts._replace(netloc=host))

    def get(self) -> HttpAnswer:
        """Requests the address. Raises SourceError for every answer but status 200, AccessError
        if the server refuses this user or so many requests."""
        response, url = self._request()
        if response.status_code == 401 and self._login and self._is_own(url):
            challenge = response.headers.get("WWW-Authenticate", "")
            response.close()
            self._auth = _scheme(challenge, *self._login)
            response, url = self._request()
        label = self._label + self._redirection(url)
        if response.status_code != 200:
            response.close()
            problem, fix = self._refusal(response)
            kind = AccessError if response.status_code in _ACCESS else SourceError
            raise kind(f"{label} {problem}", fix=fix)
        return HttpAnswer(response, label, self._timeout_s)

    def close(self) -> None:
        """Closes idle connections."""
        self._session.close()

    def _request(self) -> tuple[requests.Response, str]:
        """Returns the answer, and the address that it came from. Follows redirections without the
        bodies of their answers, which may have no end."""
        if len(self._session.cookies) > _MOST_COOKIES:
            self._session.cookies.clear()
        url = self._url
        for _ in range(_MOST_REDIRECTIONS + 1):
            response = self._send(url)
            target = self._session.get_redirect_target(response)
            if not target:
                return response, url
            response.close()
            url = self._absolute(response.url, target)
        raise SourceError(f"{self._label} redirects without end", fix=CHECK_ADDRESS)

    def _absolute(self, url: str, target: str) -> str:
        """The address that a redirection of another one leads to. Raises SourceError."""
        try:
            result = urljoin(url, target)
            _origin(result)
        except ValueError:
            raise SourceError(
                f"{self._label} redirects to a malformed address", fix=CHECK_ADDRESS
            ) from None
        if urlsplit(result).scheme not in ("http", "https"):
            raise SourceError(
                f"{self._label} redirects to an address that is not http", fix="give that address"
            )
        return result

    def _send(self, url: str) -> requests.Response:
        began_s = time.monotonic()
        try:
            return self._session.get(
                url,
                stream=True,
                auth=self._auth if self._is_own(url) else None,
                allow_redirects=False,
                timeout=(min(_CONNECT_S, self._timeout_s), self._timeout_s),
            )
        except _ERRORS as error:
            elsewhere = "" if self._is_own(url) else self._redirection(url)
            problem, fix = self._failure(error, time.monotonic() - began_s)
            raise SourceError(f"{self._label}{elsewhere} {problem}", fix=fix) from error

    def _is_own(self, url: str) -> bool:
        return _origin(url) == self._origin

    def _redirection(self, url: str) -> str:
        """How the answer came from an address, in words; empty for the requested one."""
        if url == self._url:
            return ""
        target = "another path" if self._is_own(url) else redacted(url)
        return f" redirects to {target}, which"

    def _refusal(self, response: requests.Response) -> tuple[str, str | None]:
        """The reason of a status other than 200, and the fix."""
        status = response.status_code
        if status == 401:
            if self._login is None or not self._is_own(response.url):
                return "asks for user and password (401)", CHECK_LOGIN
            return "refuses this user and password (401)", "check user and password"
        if status in _STATUS_REASONS:
            return _STATUS_REASONS[status]
        if status >= 500:
            return f"reports an error of its own ({status})", "check the server"
        return f"answers with HTTP status {status}", CHECK_ADDRESS

    def _failure(self, error: Exception, after_s: float) -> tuple[str, str | None]:
        """The reason why there is no answer, and the fix."""
        causes = _causes(error)
        for cause in causes:
            if isinstance(cause, ssl.SSLError | urllib3.exceptions.SSLError):
                return _tls_failure(cause)
            if isinstance(cause, socket.gaierror | urllib3.exceptions.NameResolutionError):
                return (
                    "cannot be reached: its name is not known",
                    "check the name, or write its IP address",
                )
            if isinstance(cause, requests.exceptions.ProxyError | urllib3.exceptions.ProxyError):
                return "cannot be reached through the proxy", "check http_proxy and no_proxy"
            if isinstance(cause, requests.exceptions.InvalidURL | UnicodeError):
                return "is no valid address", CHECK_ADDRESS
        return _network_failure(causes, after_s)


class _Session(requests.Session):
    """Follows no redirection: requests would read the whole body of each."""

    def resolve_redirects(self, *_: Any, **__: Any) -> Generator[requests.Response]:
        """Yields none."""
        yield from ()


def _origin(url: str) -> tuple[str, str | None, int]:
    """Scheme, host and port of an address. Raises ValueError for a malformed one."""
    parts = urlsplit(url)
    if parts.port == 0:
        raise ValueError("port 0")
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _scheme(challenge: str, user: str, password: str) -> AuthBase:
    """The authentication that the header WWW-Authenticate asks for."""
    login = (user.encode(), password.encode())
    if "digest" in challenge.lower():
        return _DigestAuth(user, password)
    return HTTPBasicAuth(*login)


class _DigestAuth(HTTPDigestAuth):
    """Answers a challenge without its body, which may have no end."""

    def handle_401(self, r: requests.Response, **settings: object) -> requests.Response:
        """As in `HTTPDigestAuth`."""
        if r.status_code == 401:
            r.close()
        return super().handle_401(r, **settings)


def _causes(error: BaseException) -> list[BaseException]:
    """An error and all errors behind it."""
    causes: list[BaseException] = []
    pending: list[object] = [error]
    while pending:
        cause = pending.pop(0)
        if isinstance(cause, BaseException) and cause not in causes:
            causes.append(cause)
            pending += [
                *cause.args,
                getattr(cause, "reason", None),
                cause.__cause__,
                cause.__context__,
            ]
    return causes


def _tls_failure(error: BaseException) -> tuple[str, str]:
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        reason = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
        return (
            f"has a TLS certificate that is not trusted ({reason or 'verification failed'})",
            "name a file with the certificate in the environment variable REQUESTS_CA_BUNDLE, or "
            "use http:// in a network of your own",
        )
    if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text.lower():
        return "does not answer in TLS", "use http:// or the server's port for https"
    return "fails in TLS", "check the server's TLS version"


def _network_failure(causes: list[BaseException], after_s: float) -> tuple[str, str | None]:
    system_errors = [cause for cause in causes if isinstance(cause, OSError) and cause.strerror]
    for cause in [*system_errors, *causes]:
        if isinstance(cause, ConnectionRefusedError):
            return "refuses the connection", "check that the server runs, and the port"
        if isinstance(
            cause, ConnectionResetError | BrokenPipeError | http.client.RemoteDisconnected
        ):
            return "closes the connection without an answer", "check the port and the server"
        if isinstance(cause, OSError) and cause in system_errors:
            return f"cannot be reached: {cause.strerror}", "check the host and the network"
        if isinstance(cause, TimeoutError | requests.Timeout | urllib3.exceptions.TimeoutError):
            return f"does not answer within {after_s:.2g} s", "check the host and the network"
        if isinstance(cause, http.client.HTTPException):
            return "does not answer in HTTP", "check the port and the scheme of the address"
    return f"gives no valid answer ({type(causes[-1]).__name__})", CHECK_ADDRESS


def _broken_off(error: Exception, timeout_s: float, *, began: bool) -> str:
    """Why the body of an answer ends early. began: whether any of it came."""
    for cause in _causes(error):
        if isinstance(cause, TimeoutError | urllib3.exceptions.TimeoutError):
            begin = (
                "stopped delivering frames" if began else "accepts the request and then is silent"
            )
            return f"{begin}: nothing came for {timeout_s:g} s"
    return "stopped delivering frames: the connection broke off"
