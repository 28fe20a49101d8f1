"""Runs: the recordings in a folder, and the choice of one.

A run is what one start of a node recorded. The numbers of its files define the order of runs, since
the wall clock may be set at any time, and tools that copy files change their times.
"""

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from perception_client.errors import SourceError
from perception_client.paths import expanded, matching, natural
from perception_client.recordings.mcap_file import (
    METADATA,
    UnreadableFileError,
    open_chunked,
    read_metadata,
)
from perception_client.recordings.names import SUFFIX, in_order, number_of

_PACKED = (f"{SUFFIX}.zst", f"{SUFFIX}.zstd")
_MOST_LISTED = 10
_PART = re.compile(r"(.*)_(\d{1,9})")
"""A part of a recording of another program: `drive_0`, `drive_1`."""
_MOST_PAUSE_NS = 60_000_000_000
"""Longest time between two parts of one recording of another program."""


@dataclass(frozen=True, slots=True)
class Run:
    """The files of one run. node, session: as in its messages; empty for another program's."""

    paths: tuple[Path, ...]
    node: str = ""
    session: str = ""
    number: int | None = None
    """The highest number of its files, where all have one."""

    @property
    def name(self) -> str:
        """The name of its first file, without the suffix."""
        return self.paths[0].stem

    def is_called(self, name: str) -> bool:
        """Whether a name is that of one of its files, of its session, or of its node."""
        files = {part for path in self.paths for part in (path.stem, path.name)}
        return name in files or (bool(name) and name in (self.session, self.node))


@dataclass(frozen=True, slots=True)
class Choice:
    """The files of a recording that was chosen. note: which of several runs it is, in words; None
    for the only one."""

    paths: tuple[Path, ...]
    note: str | None


def find_recording(source: str) -> list[Path] | None:
    """The files of a recording: one file, those of a pattern, or those in a folder. None for a path
    that names no recording. Raises SourceError for a bag in another format, a packed file, or a
    path that this user or the system does not look up."""
    path = expanded(source)
    try:
        return _files_of(source, path)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error


def _files_of(source: str, path: Path) -> list[Path] | None:
    if path.suffix.lower() == SUFFIX and not path.exists() and glob.has_magic(source):
        return in_order(matching(path)) or [path]
    if path.is_dir():
        files = in_order(path.glob(f"*{SUFFIX}"))
        if not files:
            others = sorted(file for file in path.iterdir() if file.name != "metadata.yaml")
            if others and all(_is_bag(file) for file in others):  # no folder of pictures
                _refuse_bag(others[0])
        return files or None
    if path.suffix.lower() == SUFFIX:
        return [path]
    if _is_bag(path):
        _refuse_bag(path)
    return None


def _is_bag(path: Path) -> bool:
    """Whether a file is a recording that has to be converted or unpacked."""
    return path.name.lower().endswith((*_PACKED, ".db3", ".bag")) and path.is_file()


def _refuse_bag(path: Path) -> NoReturn:
    if path.name.lower().endswith(_PACKED):
        raise SourceError(f"{path} is packed", fix=f"unpack it: zstd -d {path.name}")
    bag = path if path.suffix.lower() == ".bag" else path.parent
    raise SourceError(
        f"{path} is a bag of ROS, and no MCAP file",
        fix=f"convert it: rosbags-convert --src {bag} --dst OUT --dst-storage mcap",
    )


def choose_recording(source: str, run: str | None = None) -> Choice | None:
    """The files of a recording: one file, or of a folder or pattern those of the newest run.

    Args:
        source: as for `find_recording`.
        run: name of one of its files, its session, or its node (its newest run); None for
            the newest of all.

    Returns None for a source that names no recording. Raises SourceError for an unknown run,
    and for a pattern that several match.
    """
    paths = find_recording(source)
    if paths is None:
        return None
    if len(paths) == 1 and run is None:
        return Choice(tuple(paths), None)
    runs = runs_of(paths)
    where = expanded(source)
    if run is not None:
        chosen = [candidate for candidate in runs if candidate.is_called(run)]
        if not chosen:
            raise SourceError(f"{where} holds no run {run!r}", fix=f"its runs: {_listed(runs)}")
        return Choice(tuple(chosen[-1].paths), None)
    newest = runs[-1].paths if runs else ()
    of_no_run = set(paths).difference(*(candidate.paths for candidate in runs))  # not readable
    newest = (*newest, *sorted(of_no_run))
    if len(runs) < 2:
        return Choice(tuple(newest), None)
    if not where.is_dir():
        raise SourceError(
            f"{where} matches {len(runs)} runs", fix=f"name one with --run: {_listed(runs)}"
        )
    note = (
        f"{where} holds {len(runs)} runs; this is the newest, {runs[-1].name}; --run NAME reads "
        f"another: {_listed(runs[:-1])}"
    )
    return Choice(tuple(newest), note)


def runs_of(paths: Sequence[Path]) -> list[Run]:
    """The runs that files belong to, the newest last. Raises SourceError for a file that is no
    recording."""
    of_session: dict[tuple[str, str], list[Path]] = {}
    numbers: dict[Path, int | None] = {}
    foreign: list[Path] = []
    for path in paths:
        about = read_metadata(path).get(METADATA, {})
        session = about.get("session", "")
        numbers[path] = _number(path, about.get("number", ""))
        if session:
            of_session.setdefault((about.get("node", ""), session), []).append(path)
        else:
            foreign.append(path)
    runs = [
        Run(tuple(files), node, session, _highest([numbers[path] for path in files]))
        for (node, session), files in of_session.items()
    ]
    return _in_order([*runs, *_foreign_runs(foreign)])


def _number(path: Path, recorded: str) -> int | None:
    """The number of a file: from its metadata, since it may have been renamed, or its name."""
    return int(recorded) if recorded.isdecimal() else number_of(path)


def _highest(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return max(known) if known else None


def _in_order(runs: list[Run]) -> list[Run]:
    """Sorts runs, the newest last. The files of one folder have different numbers; where two runs
    have the same, or none, their files come from several folders, and between their nodes only
    their times remain."""
    numbers = [run.number for run in runs]
    if None not in numbers and len(set(numbers)) == len(numbers):
        return sorted(runs, key=lambda run: run.number or 0)
    times = {run: _start_ns(run) for run in runs}
    of_node: dict[str, list[Run]] = {}
    for run in runs:
        of_node.setdefault("" if run.number is None else run.node, []).append(run)
    for node, group in of_node.items():
        has_order = node and len({run.number for run in group}) == len(group)
        group.sort(key=lambda run: (run.number or 0 if has_order else 0, times[run]))
    by_time = sorted(of_node.values(), key=lambda group: times[group[-1]])
    return [run for group in by_time for run in group]


def _start_ns(run: Run) -> int:
    """Of its newest file; 0 where that is not readable."""
    try:
        return open_chunked(run.paths[-1]).start_ns
    except UnreadableFileError:
        return 0


def _foreign_runs(paths: Sequence[Path]) -> list[Run]:
    """The recordings of other programs: each file is one, but parts follow each other in name and
    time. A file in which nothing is readable is none."""
    runs: list[list[Path]] = []
    of_name: dict[str, tuple[list[Path], int]] = {}
    for path in sorted(paths, key=natural):
        name, number = _part(path)
        try:
            file = open_chunked(path)
        except UnreadableFileError:
            continue
        files, end_ns = of_name.get(name, ([], 0))
        if number < 0 or not files or not 0 <= file.start_ns - end_ns <= _MOST_PAUSE_NS:
            files = []
            runs.append(files)
        files.append(path)
        of_name[name] = files, file.end_ns
    return [Run(tuple(files)) for files in runs]


def _part(path: Path) -> tuple[str, int]:
    """A file's name without the number of its part, and that number; -1 without one."""
    match = _PART.fullmatch(path.stem)
    return (path.stem, -1) if match is None else (match[1], int(match[2]))


def _listed(runs: Sequence[Run]) -> str:
    names = [run.name for run in reversed(runs)]
    more = f" and {len(names) - _MOST_LISTED} older" if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more
