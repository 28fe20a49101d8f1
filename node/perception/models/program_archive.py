"""Rebuilds the archive of an exported program (.pt2) from the allowed parts only: a checked graph,
and plain tensors."""

import io
import json
import math
import zipfile
from pathlib import Path
from typing import IO, Any

from node.perception.models.program_graph import graph, payload
from node.perception.models.program_parts import Refused

_MOST_JSON_BYTES = 64 << 20
"""Largest description of a graph; torchvision's largest models have 3 MB."""
_KNOWN = ("archive_format", "archive_version", "byteorder", ".data/version")
"""Short text members that torch reads."""
_NEW_NAME = "model"
"""Name of the model in the new archive."""


def checked_archive(file: Path) -> io.BytesIO:
    """Returns a new archive, for torch.export.load, with the graph and tensors of `file`. Excludes
    sample inputs, notes and guards.

    Raises:
        Refused: the file contains something that could execute code, or inconsistent sizes.
        BadZipFile, OSError, ValueError, KeyError: the file is no such archive.
    """
    with file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        members = _members(archive, file.stat().st_size)
        names = [name for name in members if name.startswith("models/")]
        if len(names) != 1 or not names[0].endswith(".json"):
            raise Refused(f"holds {len(names)} models instead of one")
        model = names[0].removeprefix("models/").removesuffix(".json")
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as new_archive:
            for name in _KNOWN:
                if name in members:
                    new_archive.writestr(f"{_NEW_NAME}/{name}", archive.read(members[name]))
            new_archive.writestr(
                f"{_NEW_NAME}/models/{_NEW_NAME}.json",
                _json(graph(_parsed(archive, members, names[0]))),
            )
            for kind in ("weights", "constants"):
                listed = f"data/{kind}/{model}_{kind}_config.json"
                tensors = payload(_parsed(archive, members, listed))
                new_archive.writestr(
                    f"{_NEW_NAME}/data/{kind}/{_NEW_NAME}_{kind}_config.json",
                    _json({"config": tensors}),
                )
                _copy_tensors(archive, members, kind, tensors, new_archive)
            new_archive.writestr(f"{_NEW_NAME}/data/sample_inputs/{_NEW_NAME}.pt", b"")
    target.seek(0)
    return target


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Returns the members by name below the top folder. Refuses compressed members, which may
    expand to a thousand times the size of the file."""
    members = {}
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
            raise Refused(f"holds {info.filename!r:.60} packed, as torch.export.save never does")
        name = info.filename.partition("/")[2]
        if name in members:
            raise Refused(f"holds {info.filename!r:.60} twice")
        members[name] = info
        _check_kind(name, info.filename)
    if sum(info.file_size for info in members.values()) > size:
        raise Refused("holds more than its own length")
    return members


def _check_kind(name: str, shown: str) -> None:
    """Refuses libraries, pickled objects and compiled parts instead of excluding them: without
    these parts the program would do something else."""
    folder, _, last = name.rpartition("/")
    allowed = {
        "": ("archive_format", "archive_version", "byteorder", "version"),
        "models": (".json",),
        "data/weights": ("weight_", "_config.json"),
        "data/constants": ("tensor_", "_config.json"),
        "data/sample_inputs": (".pt",),
    }
    affixes = allowed.get(folder)
    if folder == ".data" or folder == "extra":
        return
    if affixes is None or not any(
        last.startswith(affix) or last.endswith(affix) for affix in affixes
    ):
        raise Refused(f"holds {shown!r:.60}, neither graph nor tensor")


def _parsed(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str) -> object:
    info = members[name]
    if info.file_size > _MOST_JSON_BYTES:
        raise Refused(f"has {info.file_size >> 20} MiB in {name}")
    parsed: object = json.loads(archive.read(info))
    return parsed


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content).encode()


def _copy_tensors(
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    kind: str,
    tensors: dict[str, Any],
    new_archive: zipfile.ZipFile,
) -> None:
    copied = set()
    for name, description in tensors.items():
        member_name = f"data/{kind}/{description['path_name']}"
        info = members[member_name]
        if description["use_pickle"]:
            raise Refused(f"holds {name!r:.60} pickled, which can run code")
        sizes = [size.get("as_int") for size in description["tensor_meta"]["sizes"]]
        if None in sizes or min(sizes, default=0) < 0 or math.prod(sizes) > info.file_size:
            raise Refused(f"says that {name!r:.60} has {sizes} numbers, in {info.file_size} bytes")
        if member_name not in copied:
            copied.add(member_name)
            with (
                archive.open(info) as source,
                new_archive.open(f"{_NEW_NAME}/{member_name}", "w") as target,
            ):
                _copy(source, target)


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    while part := source.read(1 << 20):
        target.write(part)
