"""check_private: whether only this user (and root) can change a secret and who is on a list of
keys, as ssh's StrictModes asks."""

import os
import stat
from pathlib import Path

from perception_client.errors import ConfigError

_WRITABLE = 0o022
_READABLE = 0o077


def check_private(path: Path) -> None:
    """Raises ConfigError where another user could change a file or folder: by its mode, as its
    owner, or by putting another in the place of a folder that it lies in. What is not there is
    left to whoever reads it.

    A folder above that its group may write to is taken: groups of one user are common. One that
    everybody may write to is taken where only owners may remove what is in it (/tmp).
    """
    try:
        path = path.resolve()
        _check(path, _WRITABLE)
        for above in path.parents:
            if not above.stat().st_mode & stat.S_ISVTX:
                _check(above, 0o002)
    except OSError:
        return


def check_secret(file: Path) -> None:
    """The same for a file that other users may not read either. Raises ConfigError."""
    check_private(file)
    try:
        readable = stat.S_IMODE(file.stat().st_mode) & _READABLE
    except OSError:
        return
    if readable:
        raise ConfigError(f"{file}: other users can read it", fix=f"chmod 600 {file}")


def _check(path: Path, forbidden: int) -> None:
    status = path.stat()
    if stat.S_IMODE(status.st_mode) & forbidden:
        raise ConfigError(
            f"{path}: other users can write to it, and so change who has keys",
            fix=f"chmod go-w {path}",
        )
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(
            f"{path}: belongs to another user (uid {status.st_uid}), who can change it",
            fix=f"chown {os.geteuid()} {path}",
        )
