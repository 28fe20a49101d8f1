"""Shared by the offline commands: the pictures and videos of paths, and progress bars."""

import contextlib
import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from node.config.redact import redacted
from node.errors import CHECK_NAME, SourceError
from perception_client.paths import expanded, matching, natural, walk

if TYPE_CHECKING:
    from node.capture.sources.base import Source
    from node.image.frame import Frame


@dataclass(slots=True)
class Media:
    """What paths name.

    Attributes:
        files: pictures and videos, in natural order within each path.
        unreadable: paths and folders that cannot be read, each with its error.
        other: what folders and patterns hold beside them, by suffix; `hidden` for names with a
            leading dot.
    """

    files: list[Path] = field(default_factory=list)
    unreadable: dict[Path, SourceError] = field(default_factory=dict)
    other: Counter[str] = field(default_factory=Counter)

    @property
    def others(self) -> str | None:
        """The files that are neither pictures nor videos, in words; None where all are."""
        if not self.other:
            return None
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.other.most_common(5))
        more = ", ..." if len(self.other) > 5 else ""
        total = self.other.total()
        return f"{total} other file{'s' * (total != 1)} left out ({kinds}{more})"


def media_of(paths: Iterable[str]) -> Media:
    """Finds the pictures and videos of paths: files, folders with all their subfolders, and globs.
    Raises SourceError where there is nothing at all to read."""
    media = Media()
    for path in paths:
        try:
            _add(path, media)
        except SourceError as error:
            media.unreadable[Path(path)] = error
    if not media.files:
        raise _nothing(media)
    return media


def _nothing(media: Media) -> SourceError:
    errors = list(media.unreadable.values())
    if len(errors) == 1:
        return errors[0]
    return SourceError("; ".join(error.problem for error in errors))


def _add(path: str, media: Media) -> None:
    from node.capture.sources.image_files import check_reachable
    from node.capture.sources.open import is_live

    if not path:
        raise SourceError("a path is empty", fix="a dot is the current folder")
    location = expanded(path)
    check_reachable(location)
    if location.is_dir():
        before = len(media.files)
        _add_folder(location, media)
        if len(media.files) == before and location not in media.unreadable:
            fix = media.others
            if media.other[".mcap"]:
                fix = f"label its recordings with: perception-node replay {location}"
            raise SourceError(f"{location} holds no pictures and no videos", fix=fix)
    elif location.is_file():
        media.files.append(location)
    elif is_live(path) or path == "demo":
        raise SourceError(
            f"{redacted(path)} is a camera or a stream",
            fix=f"label it with: perception-node run --source {redacted(path)}",
        )
    elif os.path.lexists(location):
        media.files.append(location)
    elif glob.has_magic(path):
        _add_matches(path, media)
    else:
        raise SourceError(
            f"{redacted(path)}: there is no such file or folder",
            fix=_similar(location) or CHECK_NAME,
        )


def _add_matches(pattern: str, media: Media) -> None:
    matches = matching(expanded(pattern))
    if not matches:
        raise SourceError(f"{redacted(pattern)}: nothing matches", fix="put a glob in quotes")
    before = len(media.files)
    for path in matches:
        _sort(path, media, media.files)
    if len(media.files) == before:
        raise SourceError(f"{redacted(pattern)} matches no picture and no video", fix=media.others)


def _sort(path: Path, media: Media, files: list[Path]) -> None:
    """Adds what a folder or pattern gave to `files`, or counts it."""
    if _is_media(path):
        files.append(path)
    else:
        kind = "folders" if os.path.isdir(path) else path.suffix.lower() or "without suffix"
        media.other[kind] += 1


def _add_folder(folder: Path, media: Media) -> None:
    """Adds the files of a folder and its subfolders."""
    files: list[Path] = []

    def note(error: OSError) -> None:
        path = Path(os.fsdecode(error.filename))
        media.unreadable[path] = SourceError(f"{path} cannot be read: {error.strerror}")

    for base, folders, names in walk(folder, note):
        media.other["hidden"] += sum(name.startswith(".") for name in folders)
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith("."):
                media.other["hidden"] += 1
            else:
                _sort(base / name, media, files)
    media.other += Counter()  # without the zeros
    media.files += sorted(files, key=natural)


def _is_media(path: Path) -> bool:
    from node.capture.sources.image_files import is_image_name
    from node.capture.sources.video_file import SUFFIXES

    return is_image_name(path) or (path.suffix.lower() in SUFFIXES and not os.path.isdir(path))


def _similar(path: Path) -> str | None:
    """A hint for a name that differs from that of a file in its Unicode form or in case only, or by
    a few letters."""
    import difflib
    import unicodedata

    def plain(name: str) -> str:
        return unicodedata.normalize("NFKC", name).casefold()

    try:
        names = {plain(entry): entry for entry in os.listdir(path.parent)}
    except OSError:
        return None
    nearest = difflib.get_close_matches(plain(path.name), names, n=1, cutoff=0.8)
    return f"there is {names[nearest[0]]!r} in its folder" if nearest else None


def frames_of(file: Path) -> Iterator["Frame"]:
    """Yields the frames of a picture or a video. Raises SourceError where none can be decoded, and
    at the end where something was skipped."""
    from node.capture.grabber import number
    from node.capture.sources.base import Incomplete
    from node.capture.sources.open import open_file

    source: Source = open_file(file)
    try:
        frame_id = 0
        while (picture := source.read()) is not None:
            yield number(picture, "label", frame_id)
            frame_id += 1
        if not frame_id:
            raise SourceError(f"{file}: no frame in it can be decoded")
        if isinstance(source, Incomplete) and source.skipped is not None:
            raise SourceError(source.skipped)
    finally:
        source.close()


@contextlib.contextmanager
def share_bar(console: Console, description: str) -> Iterator[Callable[[float], None]]:
    """A progress bar for one long operation; yields a function that sets the share done, 0 to 1."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(description, total=1.0)
        yield lambda done: progress.update(task, completed=done)


def progress_bar(console: Console) -> Progress:
    """A progress bar with a count; invisible where `console` is not a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
