"""Output files of commands: written whole or not at all. The old content stays until then."""

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from node.errors import OutputError


def write_whole(file: Path, data: bytes) -> None:
    """Writes a file. Raises OutputError, and leaves the old content, where that fails."""
    with whole_file(file) as beside:
        try:
            beside.write_bytes(data)
        except OSError as error:
            raise unwritable(file, error) from error


@contextlib.contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """A path beside `file`, with the same suffix, to write to. It replaces `file` at the end of the
    block, and is deleted where the block fails.

    A device or a pipe is written directly. An existing file is overwritten at the end where it
    cannot be replaced: its folder is not writable, or the file is a mount point.

    Raises OutputError where the folder or the file cannot be written.
    """
    try:
        kind = file.stat().st_mode
    except FileNotFoundError:
        kind = stat.S_IFREG
    except OSError as error:
        raise unwritable(file, error) from error
    if stat.S_ISDIR(kind):
        raise OutputError(f"{file} cannot be written: it is a folder")
    if not stat.S_ISREG(kind):
        yield file
        return
    target = file.resolve() if file.is_symlink() else file
    with contextlib.ExitStack() as stack:
        try:
            beside = _beside(target, stack)
            stack.callback(beside.unlink, missing_ok=True)
            _create(beside, target)
        except OSError as error:
            raise unwritable(file, error) from error
        yield beside
        try:
            _take_place(beside, target)
        except OSError as error:
            raise unwritable(file, error) from error


@contextlib.contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """An empty folder, created where it does not exist. Where the block fails, its content is
    removed. Raises OutputError for a folder with content."""
    was_there = folder.is_dir()
    if folder.exists() and not (was_there and not any(folder.iterdir())):
        raise OutputError(f"{folder} is there already", fix="name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if was_there:
            folder.mkdir(exist_ok=True)
        raise


def unwritable(path: Path, error: Exception) -> OutputError:
    """The error of a path that cannot be written."""
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if isinstance(error, FileNotFoundError) and not path.parent.is_dir():
        return OutputError(f"{path} cannot be written: there is no folder {path.parent}")
    return OutputError(f"{path} cannot be written: {why}", fix=remedy(error, "name another place"))


def remedy(error: Exception, otherwise: str) -> str:
    """What makes an output writable after an error of the disk, as an instruction.

    otherwise: the instruction that helps in each case, such as "name another folder".
    """
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"make room, or {otherwise}"
    if number in (errno.EACCES, errno.EPERM):
        return f"allow this user to write there, or {otherwise}"
    return otherwise


def _beside(target: Path, stack: contextlib.ExitStack) -> Path:
    """A path in the folder of the target, or in a temporary folder where that is not writable."""
    name = f".{secrets.token_hex(8)}{target.suffix[:32]}"
    if target.exists() and not os.access(target.parent, os.W_OK | os.X_OK):
        return Path(stack.enter_context(tempfile.TemporaryDirectory())) / name
    return target.with_name(name)


def _take_place(beside: Path, target: Path) -> None:
    try:
        beside.replace(target)
    except OSError as error:
        # Another file system, a folder that is not writable, or a file that is a mount point.
        if error.errno not in (errno.EXDEV, errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        if not target.exists():
            raise
        shutil.copyfile(beside, target)


def _create(beside: Path, target: Path) -> None:
    """Creates an empty file with the mode of the target, or of a new file."""
    os.close(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    if target.exists():
        beside.chmod(stat.S_IMODE(target.stat().st_mode))
