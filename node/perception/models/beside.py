"""Files that a model file or its card names: they lie beside it, in its folder or below. A model
that somebody else made must not have other files of this computer read, and published as labels."""

import stat
from pathlib import Path

from node.errors import ModelError

MIB = 1 << 20


def beside(model_file: Path, name: str) -> Path:
    """The file of that name in the model file's folder. Raises ModelError where it is elsewhere,
    also by a symbolic link, is not there, or is no regular file."""
    place = model_file.parent / name
    try:
        found = place.resolve(strict=True)
        regular = stat.S_ISREG(found.stat().st_mode)
    except (OSError, ValueError, RuntimeError) as error:  # missing, a zero in it, links in a circle
        raise ModelError(f"{model_file}: {name!r:.80} cannot be read beside it") from error
    # A model that is itself a link may have the others beside it, or beside what it links to.
    folders = (model_file.parent.resolve(), model_file.resolve().parent)
    if not any(found.is_relative_to(folder) for folder in folders):
        raise ModelError(
            f"{model_file}: {name!r:.80} is not in its folder, and is not read; put it beside the "
            "model"
        )
    if not regular:
        raise ModelError(f"{model_file}: {name!r:.80} is not a regular file")
    return place


def text_of(file: Path, most_bytes: int) -> str:
    """A text file of at most so many bytes. Raises OSError, UnicodeDecodeError, or ValueError for
    a longer one."""
    with file.open("rb") as stream:
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise ValueError(f"it has more than {most_bytes / MIB:g} MiB")
    return content.decode("utf-8-sig")
