"""Finds the other files that an ONNX file reads its tensors from, before a runtime opens them."""

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import Message

from node.errors import ModelError
from node.perception.models.beside import beside


def external_files(file: Path) -> tuple[Path, ...]:
    """Returns the files with external tensors of an ONNX file, each once, sorted by name.

    Raises ModelError if the file cannot be read, or names a file outside its folder: onnx and some
    runtimes would open such a file, and one runtime accepts a memory address as a name.
    """
    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as error:
        # protobuf raises many types.
        reason = " ".join(str(error).split())[:120]
        raise ModelError(f"{file} cannot be read ({reason})", fix="export it again") from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{file} cannot be read (it holds no ONNX graph)", fix="export it again")
    names = {name for tensor in _tensors(model) for name in _locations(tensor)}
    return tuple(beside(file, name) for name in sorted(names))


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
