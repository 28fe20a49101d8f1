"""CURVE: which clients may connect to a socket that other computers can reach.

CURVE encrypts and authenticates; ZAP (ZeroMQ RFC 27) admits the keys of an allow list only.
A folder of keys, as `perception-node keys` makes it, contains

    server.key, server.key_secret     the node's own pair
    labels/NAME.key                   clients that may receive labels
    control/NAME.key                  clients that may control the node
    clients/NAME/                     the files to copy to the computer of each client
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import zmq
from zmq.auth import create_certificates
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils import z85

from node.errors import ConfigError
from node.process.log_limit import LimitedLog
from perception_client.keys import SERVER_FILE, read_pair
from perception_client.private_files import check_private, check_secret

log = logging.getLogger(__name__)

Access = Literal["labels", "control"]
ACCESSES: tuple[Access, ...] = ("labels", "control")
_SECRET = "server.key_secret"
_KEY_BYTES = 32
"""Of a public key, as ZAP has it (ZeroMQ RFC 27)."""


@contextlib.contextmanager
def secured(
    context: "zmq.Context[Any]", socket: "zmq.Socket[Any]", keys: Path | None, access: Access
) -> Iterator[None]:
    """Entered before a socket binds: admits only clients on the allow list, and runs the thread
    that checks the list. A refusal is logged, at most once in ten seconds for each key.

    keys: None for a socket without keys. Raises ConfigError.
    """
    if keys is None:
        yield
        return
    public, secret = server_pair(keys)
    for listed in sorted((keys / access).glob("*.key")):
        check_private(listed)
        read_pair(listed)  # the authenticator would only log a damaged file, and admit no client
    authenticator = _Authenticator(context, access, _names(keys))
    authenticator.start()
    try:
        authenticator.configure_curve(domain=access, location=str(keys / access))
        socket.zap_domain = access.encode()
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without ZAP no client is admitted
        socket.curve_server = True
        socket.curve_publickey = public
        socket.curve_secretkey = secret
        yield
    finally:
        authenticator.stop()


class _Authenticator(ThreadAuthenticator):
    """Answers ZAP requests, and logs which client it refuses: libzmq and pyzmq do not.

    names: of the known clients, by their public keys.
    """

    def __init__(
        self, context: "zmq.Context[Any]", access: Access, names: Mapping[bytes, str]
    ) -> None:
        super().__init__(context)
        self._access = access
        self._names = names
        self._refusals = LimitedLog(log)
        self._request: list[bytes] = []

    async def handle_zap_message(self, msg: list[bytes]) -> None:
        """Answers one request: version, id, domain, address, identity, mechanism, credentials."""
        self._request = msg
        await super().handle_zap_message(msg)

    def _send_zap_reply(
        self, request_id: bytes, status_code: bytes, status_text: bytes, user_id: str = "anonymous"
    ) -> None:
        super()._send_zap_reply(request_id, status_code, status_text, user_id)
        if status_code != b"200":
            self._log_refusal(status_text.decode("ascii", "replace"))

    def _log_refusal(self, why: str) -> None:
        _, _, _, address, _, mechanism, *credentials = [*self._request, *[b""] * 6][:7]
        client = address.decode("ascii", "replace") or "this host"
        if mechanism == b"CURVE" and len(credentials[0]) == _KEY_BYTES:
            public = z85.encode(credentials[0])
            name = self._names.get(public)
            if name is None:
                client += f", key {public.decode()}, which is on no list"
            else:
                client += f", key {name!r}, which is not on the list for {self._access}"
        self._refusals.warning(
            client, f"{self._access}: refused a client at {client} ({why}); perception-node keys "
            "adds clients, and the node reads the lists when it starts"
        )  # fmt: skip


def _names(keys: Path) -> dict[bytes, str]:
    """The names of all clients that are on some list of a folder of keys, by their public keys.
    Files that cannot be read are skipped: they name nobody."""
    names: dict[bytes, str] = {}
    for access in ACCESSES:
        for listed in sorted((keys / access).glob("*.key")):
            with contextlib.suppress(ConfigError):
                public, _ = read_pair(listed)
                names[public] = listed.stem
    return names


def server_pair(keys: Path) -> tuple[bytes, bytes]:
    """The key pair of the node, public and secret. Raises ConfigError for an incomplete folder, a
    folder that other users can write to, and a secret that they can read."""
    file = keys / _SECRET
    public, secret = read_pair(file)
    if secret is None:
        raise ConfigError(f"{file}: holds no secret key", fix="copy it again")
    check_secret(file)
    for access in ACCESSES:
        if not (keys / access).is_dir():
            raise ConfigError(
                f"{keys / access}: there is no such folder", fix="run perception-node keys"
            )
        check_private(keys / access)
    return public, secret


def make_server(folder: Path) -> bool:
    """Makes the key pair of the node and the folders, readable by this user only, where they do not
    exist; whether the pair was made."""
    with _only_mine():
        for path in (folder, *(folder / access for access in ACCESSES), folder / "clients"):
            path.mkdir(parents=True, exist_ok=True)
        if (folder / _SECRET).exists():
            return False
        create_certificates(folder, "server")
    return True


def make_client(folder: Path, name: str, allowed: Sequence[str]) -> Path:
    """Makes the key pair of a new client and adds it to the allow lists. Returns the folder to copy
    to the computer of the client. Raises ConfigError for a client that exists, also where its
    folder was moved to its computer: new keys would lock it out."""
    destination = folder / "clients" / name
    listed = _listed(folder, name)
    if destination.exists() or listed:
        known = [destination] if destination.exists() else []
        raise ConfigError(
            f"client {name!r} of {folder}: this client has its keys already",
            fix="to make new ones, "
            f"remove {', '.join(str(file) for file in (*known, *listed.values()))}",
        )
    with _only_mine():
        destination.mkdir(parents=True)
        public, _ = create_certificates(destination, name)
        for access in allowed:
            shutil.copyfile(public, folder / access / f"{name}.key")
        shutil.copyfile(folder / SERVER_FILE, destination / SERVER_FILE)
        Path(public).unlink()
    return destination


def allow_client(folder: Path, name: str, allowed: Sequence[str]) -> tuple[str, ...]:
    """Adds a client that is on one allow list to others, with the key that it has. Returns the
    lists that it was not on; empty for a client that is on none, or on all of `allowed`."""
    listed = _listed(folder, name)
    added = tuple(access for access in allowed if access not in listed) if listed else ()
    with _only_mine():
        for access in added:
            shutil.copyfile(next(iter(listed.values())), folder / access / f"{name}.key")
    return added


def _listed(folder: Path, name: str) -> dict[str, Path]:
    """The files of a client on the allow lists, by list."""
    files = {access: folder / access / f"{name}.key" for access in ACCESSES}
    return {access: file for access, file in files.items() if file.exists()}


@contextlib.contextmanager
def _only_mine() -> Iterator[None]:
    """Files that are created within the block get mode 0600, and folders 0700, from the start."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)
