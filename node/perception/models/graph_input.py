"""GraphInput: how a user's graph takes the picture, and what its other inputs get."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from node.errors import ModelError
from node.perception.models.graph_signature import GraphValue
from node.perception.models.model_card import ModelCard

Whole = NDArray[np.int64]
Constant = NDArray[np.int64] | NDArray[np.int32] | NDArray[np.float32]


@dataclass(frozen=True)
class GraphInput:
    """The inputs of a graph.

    Attributes:
        index: of the picture among the inputs, in the order of the file.
        layout: order of the picture's lengths.
        dtype: of the picture: `float32`, `float16` or `uint8`.
        constants: the other inputs by their index, each with the value that it always gets.
    """

    index: int = 0
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    dtype: str = "float32"
    constants: tuple[tuple[int, Constant], ...] = field(default=(), compare=False)


ONE_PICTURE = GraphInput()
"""The input of most graphs: one picture, NCHW, float32."""
_NUMBERS = ("int32", "int64", "float32")


def graph_input_of(file: Path, inputs: Sequence[GraphValue], card: ModelCard) -> GraphInput:
    """Returns how a graph takes the picture that its card describes.

    Args:
        file: the model file, for the errors.
        inputs: of the file, in its order.
        card: its card.

    Raises:
        ModelError: the node cannot give these inputs.
    """
    known = {
        index: _KNOWN[value.name]
        for index, value in enumerate(inputs)
        if value.name in _KNOWN and value.dtype in _NUMBERS
    }
    pictures = [index for index in range(len(inputs)) if index not in known]
    if len(pictures) != 1:
        names = ", ".join(f"{value.name or '?'} {value.dtype}" for value in inputs)
        raise ModelError(
            f"{file}: has {len(inputs)} inputs ({names:.150})",
            fix="export it with one, the picture; beside it the node gives "
            f"{' and '.join(_KNOWN)} only",
        )
    (index,) = pictures
    layout = _layout(file, inputs[index], card)
    _check_dtype(file, inputs[index].dtype, card)
    constants = tuple(
        (other, make(card.input.size).astype(inputs[other].dtype)) for other, make in known.items()
    )
    return GraphInput(index, layout, inputs[index].dtype, constants)


def _layout(file: Path, picture: GraphValue, card: ModelCard) -> Literal["NCHW", "NHWC"]:
    shape, size = picture.shape, card.input.size
    if shape is None:
        return "NCHW"
    colours_last = len(shape) == 4 and shape[3] == 3 and shape[1] != 3
    if len(shape) != 4 or (not colours_last and shape[1] not in (3, -1)):
        raise ModelError(
            f"{file}: takes {picture.described}, and the node gives [n, 3, {card.input.size_px}] "
            f"or [n, {card.input.size_px}, 3]",
            fix="export it with the batch first, then the colours, then height and width",
        )
    sides = shape[1:3] if colours_last else shape[2:]
    if any(own not in (length, -1) for own, length in zip(sides, size, strict=True)):
        form = f"{card.input.size_px}, 3" if colours_last else f"3, {card.input.size_px}"
        raise ModelError(
            f"{file}: takes {picture.described}, and its card says [n, {form}]",
            fix="correct input.size, or export it so",
        )
    if shape[0] not in (1, -1):
        raise ModelError(
            f"{file}: takes {shape[0]} pictures at once, and the node gives one or any number",
            fix="export it with a batch of 1 or of any length",
        )
    return "NHWC" if colours_last else "NCHW"


def _check_dtype(file: Path, dtype: str, card: ModelCard) -> None:
    if dtype not in ("float32", "float16", "uint8"):
        raise ModelError(
            f"{file}: takes {dtype}, and the node gives float32, float16 or uint8",
            fix="export it with a float32 input",
        )
    factors, offsets = card.preprocess.factors
    if dtype == "uint8" and ((factors != 1).any() or offsets.any()):
        raise ModelError(
            f"{file}: takes uint8, grey levels 0 to 255, and its card scales them",
            fix="write input.scale = 1.0, and no mean and std",
        )


def _size_of_picture(input_px: tuple[int, int]) -> Whole:
    """With the size of the network's input, boxes come in its pixels, as the decoders read them."""
    return np.array([[input_px[1], input_px[0]]], np.int64)


def _no_padding(input_px: tuple[int, int]) -> Whole:
    return np.ones((1, *input_px), np.int64)


_KNOWN: dict[str, Callable[[tuple[int, int]], Whole]] = {
    "orig_target_sizes": _size_of_picture,
    "pixel_mask": _no_padding,
}
"""Further inputs by name: of RT-DETR and D-FINE [n, 2], width and height of the picture; of DETR
[n, height, width], 1 for each pixel that is no padding."""
