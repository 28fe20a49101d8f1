"""The graph of EfficientNet-Lite0, made from its bundled weights without torch: importing torch and
timm for a graph of 16 blocks takes most of a node's first start.

Architecture: Tan and Le, EfficientNet (2019), and Google's release of the Lite models (no squeeze
and excitation, ReLU6, stem and head of fixed width), with TensorFlow's SAME padding.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from node.perception.models.legacy_weights import read_legacy
from node.perception.models.weights_file import WeightsError

_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
"""Of the depthwise convolution of each block."""
_STEM_STRIDE = 2
_EPSILON = 1e-3
"""Of each BatchNorm, as TensorFlow trained them."""
_OPSET, _IR_VERSION = 17, 8
"""Those of one release of ONNX, which every runtime of today reads."""


def network_graph(file: Path, size_px: int) -> onnx.ModelProto:
    """Returns the network with the bundled weights: `images` [n, 3, size, size] float32, which are
    normalised, to `logits` [n, 1000]. Raises WeightsError."""
    try:
        return _Builder(read_legacy(file), size_px).build()
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"weights {file}: are not those of EfficientNet-Lite0 ({error})",
            fix="install their package again",
        ) from error


class _Builder:
    """Adds node after node; a value is named by the node that gives it."""

    def __init__(self, weights: Mapping[str, NDArray[np.float32]], size_px: int) -> None:
        self._weights = weights
        self._size_px = size_px
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def build(self) -> onnx.ModelProto:
        """The whole graph."""
        for name, limit in (("zero", 0.0), ("six", 6.0)):
            self._constant(name, np.array(limit, np.float32))
        size_px = self._size_px
        value = self._convolution("_conv_stem", "_bn0", "images", _STEM_STRIDE, active=True)
        for index, stride in enumerate(_STRIDES):
            value = self._block(f"_blocks.{index}.", value, stride)
        value = self._convolution("_conv_head", "_bn1", value, 1, active=True)
        value = self._node("GlobalAveragePool", [value], "pooled")
        value = self._node("Flatten", [value], "flat")
        for part in ("weight", "bias"):
            self._constant(f"_fc.{part}", self._weights[f"_fc.{part}"])
        self._node("Gemm", [value, "_fc.weight", "_fc.bias"], "logits", transB=1)
        images = helper.make_tensor_value_info(
            "images", TensorProto.FLOAT, ["n", 3, size_px, size_px]
        )
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 1000])
        graph = helper.make_graph(
            self._nodes, "efficientnet_lite0", [images], [logits], self._constants
        )
        opsets = [helper.make_opsetid("", _OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)

    def _block(self, prefix: str, source: str, stride: int) -> str:
        """An inverted residual: expand, convolve each channel, project."""
        value = source
        if f"{prefix}_expand_conv.weight" in self._weights:
            value = self._convolution(
                f"{prefix}_expand_conv", f"{prefix}_bn0", value, 1, active=True
            )
        value = self._convolution(
            f"{prefix}_depthwise_conv", f"{prefix}_bn1", value, stride, active=True
        )
        value = self._convolution(f"{prefix}_project_conv", f"{prefix}_bn2", value, 1, active=False)
        inner = self._weights.get(f"{prefix}_expand_conv.weight")
        projected = self._weights[f"{prefix}_project_conv.weight"]
        if stride == 1 and inner is not None and inner.shape[1] == projected.shape[0]:
            value = self._node("Add", [value, source], f"{prefix}sum")
        return value

    def _convolution(self, name: str, norm: str, source: str, stride: int, *, active: bool) -> str:
        """A convolution with its BatchNorm folded in, and ReLU6 where active."""
        weight = self._weights[f"{name}.weight"]
        scale = self._weights[f"{norm}.weight"] / np.sqrt(
            self._weights[f"{norm}.running_var"] + np.float32(_EPSILON)
        )
        bias = self._weights[f"{norm}.bias"] - self._weights[f"{norm}.running_mean"] * scale
        self._constant(f"{name}.weight", weight * scale[:, None, None, None])
        self._constant(f"{name}.bias", bias)
        kernel = weight.shape[2]
        value = self._node(
            "Conv", [source, f"{name}.weight", f"{name}.bias"], name,
            kernel_shape=[kernel, kernel], strides=[stride, stride],
            group=weight.shape[0] if weight.shape[1] == 1 else 1,
            auto_pad="SAME_UPPER",
        )  # fmt: skip
        return self._node("Clip", [value, "zero", "six"], f"{name}.active") if active else value

    def _node(self, kind: str, sources: list[str], result: str, **attributes: Any) -> str:
        self._nodes.append(helper.make_node(kind, sources, [result], name=result, **attributes))
        return result

    def _constant(self, name: str, values: NDArray[np.float32]) -> None:
        array = np.ascontiguousarray(values, np.float32)
        self._constants.append(numpy_helper.from_array(array, name))
