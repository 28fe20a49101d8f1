"""Reads an ONNX file, and finds the other files with its tensors before a runtime opens them."""

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import Message

from node.errors import ModelError
from node.perception.models.beside import beside
from node.perception.models.engine_errors import engine_reason


def external_files(file: Path) -> tuple[Path, ...]:
    """Returns the files with external tensors of an ONNX file, each once, sorted by name.

    Raises ModelError if the file cannot be read, or names a file outside its folder: onnx and some
    runtimes would open such a file, and one runtime accepts a memory address as a name.
    """
    model = _without_tensors(file)
    names = {name for tensor in _tensors(model) for name in _locations(tensor)}
    return tuple(beside(file, name) for name in sorted(names))


def read_onnx(file: Path) -> onnx.ModelProto:
    """Reads an ONNX file with all its tensors, wherever they stand.

    onnx refuses files that are links, as the folders of model hubs are made of; here `beside` has
    checked what they lead to. Raises ModelError.
    """
    model = _without_tensors(file)
    for tensor in _tensors(model):
        places = {entry.key: entry.value for entry in tensor.external_data}
        if not places:
            continue
        path = beside(file, places.get("location", ""))
        try:
            tensor.raw_data = _part_of(path, places)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{file}: the tensor {tensor.name!r:.80} cannot be read from {path.name} ({error})",
                fix="copy the files again",
            ) from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        tensor.ClearField("external_data")
    return model


def metadata_of(file: Path) -> dict[str, str]:
    """Returns the metadata of an ONNX file, as its exporter wrote it. Raises ModelError."""
    entries = _without_tensors(file).metadata_props
    return {_text(entry.key): _text(entry.value) for entry in entries}


def _text(value: str | bytes) -> str:
    # protobuf gives what is no UTF-8 as bytes.
    return value if isinstance(value, str) else value.decode(errors="replace")


def _part_of(path: Path, places: dict[str, str]) -> bytes:
    """Returns the bytes of a tensor. Raises OSError, or ValueError if there are fewer."""
    size = path.stat().st_size
    offset = int(places.get("offset", 0))
    length = int(places.get("length", size - offset))
    # Reading reserves the memory first.
    if min(offset, length) < 0 or offset + length > size:
        raise ValueError(f"it ends after {size} bytes")
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(length)


def _without_tensors(file: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as error:
        # protobuf raises many types.
        raise ModelError(
            f"{file} cannot be read ({engine_reason(error)})", fix="export it again"
        ) from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{file} cannot be read (it holds no ONNX graph)", fix="export it again")
    return model


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Yields all tensors of a message: weights, constants, attributes, subgraphs, functions."""
    pending = [message]
    while pending:
        item = pending.pop()
        if isinstance(item, onnx.TensorProto):
            yield item
            continue
        for field, value in item.ListFields():
            if field.message_type is not None:
                pending.extend([value] if isinstance(value, Message) else value)


def _locations(tensor: onnx.TensorProto) -> list[str]:
    locations = [entry.value for entry in tensor.external_data if entry.key == "location"]
    return locations or [""] * (tensor.data_location == onnx.TensorProto.EXTERNAL)
