"""Access to the files that a model file or its card names. Only files in the model file's folder or
below are read: a model from another party must not get other files of this computer read and
published as labels."""

import stat
from pathlib import Path

from node.errors import ModelError

MIB = 1 << 20


def beside(model_file: Path, name: str) -> Path:
    """Returns the named file in the model file's folder. Raises ModelError if it is missing, is
    outside the folder (also by a symbolic link), or is no regular file."""
    path = model_file.parent / name
    try:
        resolved = path.resolve(strict=True)
        is_regular = stat.S_ISREG(resolved.stat().st_mode)
    except (OSError, ValueError, RuntimeError) as error:
        # Missing, a zero byte in the name, or circular links.
        raise ModelError(f"{model_file}: {name!r:.80} cannot be read beside it") from error
    # A model file may itself be a link, with the other files beside the link or beside its target.
    folders = (model_file.parent.resolve(), model_file.resolve().parent)
    if not any(resolved.is_relative_to(folder) for folder in folders):
        raise ModelError(
            f"{model_file}: {name!r:.80} is not in its folder, and is not read",
            fix="put it beside the model",
        )
    if not is_regular:
        raise ModelError(f"{model_file}: {name!r:.80} is not a regular file")
    return path


def text_of(file: Path, most_bytes: int) -> str:
    """Reads a UTF-8 text file. Raises OSError, UnicodeDecodeError, or ValueError if it is longer
    than `most_bytes`."""
    with file.open("rb") as stream:
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it has more than {most_bytes / MIB:g} MiB")
    return content.decode("utf-8-sig")
