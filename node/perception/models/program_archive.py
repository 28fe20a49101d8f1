"""The archive of an exported program (.pt2), taken apart and put together anew from what may be in
it: a graph that was checked, and plain tensors."""

import io
import json
import math
import zipfile
from pathlib import Path
from typing import IO, Any

from node.perception.models.program_graph import graph, payload
from node.perception.models.program_parts import Refused

_MOST_JSON_BYTES = 64 << 20
"""Longest description of a graph; those of torchvision's largest models have 3 MB."""
_KNOWN = ("archive_format", "archive_version", "byteorder", ".data/version")
"""Short texts that torch looks for."""
_OURS = "model"


def checked_archive(file: Path) -> io.BytesIO:
    """A new archive, for torch.export.load, of the graph and the tensors in `file`.

    Left out: sample inputs, notes, guards. Raises Refused for anything that could run code and for
    sizes that do not fit; BadZipFile, OSError, ValueError or KeyError where it is no such archive.
    """
    with file.open("rb") as stream, zipfile.ZipFile(stream) as archive:
        members = _members(archive, file.stat().st_size)
        names = [name for name in members if name.startswith("models/")]
        if len(names) != 1 or not names[0].endswith(".json"):
            raise Refused(f"holds {len(names)} models where one is")
        model = names[0].removeprefix("models/").removesuffix(".json")
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w") as made:
            for name in _KNOWN:
                if name in members:
                    made.writestr(f"{_OURS}/{name}", archive.read(members[name]))
            made.writestr(
                f"{_OURS}/models/{_OURS}.json", _json(graph(_parsed(archive, members, names[0])))
            )
            for kind in ("weights", "constants"):
                listed = f"data/{kind}/{model}_{kind}_config.json"
                tensors = payload(_parsed(archive, members, listed))
                made.writestr(
                    f"{_OURS}/data/{kind}/{_OURS}_{kind}_config.json", _json({"config": tensors})
                )
                _copy_tensors(archive, members, kind, tensors, made)
            made.writestr(f"{_OURS}/data/sample_inputs/{_OURS}.pt", b"")
    target.seek(0)
    return target


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """What is in it by its name below the top folder, none of it packed: a packed one may be a
    thousand times as long as the file."""
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
    """Libraries, pickled objects and compiled parts are refused, not only left out: a file that was
    made to be run as such would do something else here."""
    folder, _, last = name.rpartition("/")
    allowed = {
        "": ("archive_format", "archive_version", "byteorder", "version"),
        "models": (".json",),
        "data/weights": ("weight_", "_config.json"),
        "data/constants": ("tensor_", "_config.json"),
        "data/sample_inputs": (".pt",),
    }
    marks = allowed.get(folder)
    if folder == ".data" or folder == "extra":
        return
    if marks is None or not any(last.startswith(x) or last.endswith(x) for x in marks):
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
    made: zipfile.ZipFile,
) -> None:
    copied = set()
    for name, about in tensors.items():
        place = f"data/{kind}/{about['path_name']}"
        info = members[place]
        if about["use_pickle"]:
            raise Refused(f"holds {name!r:.60} pickled, which can run code")
        sizes = [size.get("as_int") for size in about["tensor_meta"]["sizes"]]
        if None in sizes or min(sizes, default=0) < 0 or math.prod(sizes) > info.file_size:
            raise Refused(f"says that {name!r:.60} has {sizes} numbers, in {info.file_size} bytes")
        if place not in copied:
            copied.add(place)
            with archive.open(info) as source, made.open(f"{_OURS}/{place}", "w") as target:
                _copy(source, target)


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    while part := source.read(1 << 20):
        target.write(part)
