"""Keys: the keys of a client of a node that asks for keys (CURVE). Needs pyzmq only."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
from zmq.auth import load_certificate
from zmq.utils import z85

from perception_client.errors import ConfigError
from perception_client.paths import expanded
from perception_client.private_files import check_private, check_secret

SERVER_FILE = "server.key"
_KEY_CHARACTERS = 40
"""Length of a key in Z85 (ZeroMQ RFC 32): 32 bytes."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The node's public key and a client's own pair; each 40 characters of Z85."""

    server: bytes
    """The node's public key."""
    public: bytes
    """The client's public key."""
    secret: bytes
    """The client's secret key."""

    def __post_init__(self) -> None:
        """Refuses text that is no key: libzmq would, without a reason. Raises ConfigError."""
        for name in ("server", "public", "secret"):
            key = getattr(self, name)
            if not isinstance(key, bytes) or not _is_key(key):
                raise ConfigError(
                    f"keys: the {name} key is not {_KEY_CHARACTERS} characters of Z85",
                    fix="read keys from a client's folder with Keys.read",
                )

    @classmethod
    def read(cls, folder: Path | str) -> "Keys":
        """Reads a folder with the node's `server.key` and one client's `NAME.key_secret`.

        Raises ConfigError, also where other users could change these files or read the secret.
        """
        path = expanded(folder)
        if not path.is_dir():
            raise ConfigError(
                f"{path}: there is no such folder", fix="name the client's folder of keys"
            )
        own = [file for file in sorted(path.glob("*.key_secret")) if file.stem != "server"]
        if len(own) != 1:
            raise ConfigError(
                f"{path}: {len(own)} files NAME.key_secret",
                fix="a client's folder holds its own one "
                "and the node's server.key, as `perception-node keys` made them",
            )
        check_private(path / SERVER_FILE)
        check_secret(own[0])
        server, _ = read_pair(path / SERVER_FILE)
        public, secret = read_pair(own[0])
        if secret is None:
            raise ConfigError(f"{own[0]}: holds no secret key", fix="copy it again")
        return cls(server, public, secret)

    def put_on(self, socket: "zmq.Socket[Any]") -> None:
        """Sets the keys on a socket; to call before the socket connects."""
        socket.curve_serverkey = self.server
        socket.curve_publickey = self.public
        socket.curve_secretkey = self.secret


def read_pair(file: Path) -> tuple[bytes, bytes | None]:
    """The public key in a certificate file, and the secret key; None for a file without a secret
    key. Raises ConfigError."""
    try:
        public, secret = load_certificate(file)
    except OSError:
        raise ConfigError(
            f"{file}: there is no such file, or it may not be read",
            fix="`perception-node keys` makes it",
        ) from None
    except ValueError as error:
        raise ConfigError(f"{file}: is no key file ({error})", fix="copy it again") from None
    if not _is_key(public) or not (secret is None or _is_key(secret)):
        raise ConfigError(
            f"{file}: is damaged, a key in it is not {_KEY_CHARACTERS} characters of Z85",
            fix="copy it again, or move it away and make new ones with perception-node keys",
        )
    return public, secret


def _is_key(text: bytes) -> bool:
    try:
        return len(text) == _KEY_CHARACTERS and bool(z85.decode(text))
    except (KeyError, struct.error):  # another character; five that are more than 32 bits
        return False
