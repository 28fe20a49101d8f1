"""ONNX files: which other files one takes its tensors from, before any runtime follows them."""

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import Message

from node.errors import ModelError
from node.perception.models.beside import beside


def external_files(file: Path) -> tuple[Path, ...]:
    """The files with tensors of an ONNX file, each once, in the order of their names.

    Raises ModelError where it cannot be read, or names a file that is not in its folder. onnx and
    the runtimes would follow some of those, and one takes an address in memory for a name.
    """
    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as error:  # protobuf raises many kinds
        reason = " ".join(str(error).split())[:120]
        raise ModelError(f"{file} cannot be read ({reason}); export it again") from error
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{file} cannot be read (it holds no ONNX graph); export it again")
    names = {name for tensor in _tensors(model) for name in _locations(tensor)}
    return tuple(beside(file, name) for name in sorted(names))


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Wherever they are: weights, constants, attributes, sub-graphs, functions."""
    waiting = [message]
    while waiting:
        one = waiting.pop()
        if isinstance(one, onnx.TensorProto):
            yield one
            continue
        for field, value in one.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if isinstance(value, Message) else value)


def _locations(tensor: onnx.TensorProto) -> list[str]:
    found = [entry.value for entry in tensor.external_data if entry.key == "location"]
    return found or [""] * (tensor.data_location == onnx.TensorProto.EXTERNAL)
