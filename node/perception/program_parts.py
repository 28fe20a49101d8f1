"""The parts of an exported program that can name code: operators, size expressions and structures.
Each is held against a list of what an image model needs; torch would resolve or evaluate any."""

import ast
import json
import re
from collections.abc import Mapping

import torch


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Layers as torch.nn writes them, and what torch.export's decompositions make of them.
_LAYERS = _words(
    """
    adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d addmm
    affine_grid_generator avg_pool1d avg_pool2d batch_norm bmm channel_shuffle convolution conv1d
    conv2d conv3d conv_transpose2d dropout embedding feature_dropout grid_sampler grid_sampler_2d
    group_norm instance_norm layer_norm linear matmul max_pool1d max_pool2d max_pool2d_with_indices
    mm _native_batch_norm_legit_no_training native_dropout native_group_norm native_layer_norm
    pixel_shuffle pixel_unshuffle rms_norm scaled_dot_product_attention upsample_bicubic2d
    upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact2d
    """
)
_ACTIVATIONS = _words(
    """
    celu elu gelu glu hardsigmoid hardswish hardtanh leaky_relu log_sigmoid log_softmax
    _log_softmax logit mish prelu _prelu_kernel relu relu6 rrelu selu sigmoid silu softmax _softmax
    softplus softshrink tanh threshold
    """
)
_ARITHMETIC = _words(
    """
    abs add addcdiv addcmul all amax amin any argmax argmin argsort atan atan2 baddbmm bitwise_and
    bitwise_not bitwise_or ceil clamp clamp_max clamp_min cos cumsum div einsum eq erf exp expm1
    floor floor_divide fmod ge gt isfinite isinf isnan le linalg_norm linalg_vector_norm log log1p
    log2 logical_and logical_not logical_or lt max maximum mean min minimum mul multiply ne neg
    norm pow prod reciprocal remainder round rsqrt rsub sign sin sort sqrt square std sub subtract
    sum tan topk true_divide trunc var var_mean __and__ __or__
    """
)
# Shapes, and the making of tensors; none of memory as it is found (empty).
_SHAPES = _words(
    """
    alias arange _assert_scalar _assert_tensor_metadata cat chunk clone concat constant_pad_nd
    contiguous copy detach diagonal expand expand_as fill flatten flip full full_like gather index
    index_put index_select lift_fresh_copy linspace masked_fill meshgrid movedim narrow new_full
    new_ones new_zeros ones ones_like pad permute reflection_pad2d repeat repeat_interleave
    replication_pad2d reshape roll scalar_tensor scatter select select_scatter slice slice_scatter
    split split_with_sizes squeeze stack swapaxes swapdims sym_constrain_range_for_size sym_numel
    sym_size t tile to _to_copy transpose tril triu type_as unbind unflatten unfold _unsafe_view
    unsqueeze view view_as where zero zeros zeros_like
    """
)
OPERATORS = _LAYERS | _ACTIVATIONS | _ARITHMETIC | _SHAPES
"""Of torch.ops.aten, without the underscore of those that work in place. None of them reads or
writes files, prints, or takes code."""
_SIZES = _words(
    """
    _operator.add _operator.sub _operator.mul _operator.floordiv _operator.mod _operator.neg
    _operator.truediv _operator.eq _operator.ne _operator.lt _operator.le _operator.gt _operator.ge
    _operator.and_ _operator.or_ math.ceil math.floor math.trunc torch.sym_float torch.sym_int
    torch.sym_max torch.sym_min torch.sym_not torch.sym_ite
    """
)
"""Arithmetic of sizes."""
_FUNCTIONS = _words(
    """
    Integer Rational Float Add Mul Pow Max Min Mod PythonMod FloorDiv CeilDiv CleanDiv
    ModularIndexing Where Identity ToFloat IntTrueDiv FloatTrueDiv CeilToInt FloorToInt TruncToInt
    RoundToInt Eq Ne Lt Le Gt Ge Equality Unequality StrictLessThan LessThan StrictGreaterThan
    GreaterThan And Or Not
    """
)
_ASSUMPTIONS = _words("integer positive nonnegative negative nonzero zero real finite")
_MOST_LETTERS = 4000
_LARGEST = 2**63
_LARGEST_POWER = 8
SYMBOL = re.compile(r"(s|u|f|zf|zuf)\d{1,6}")
"""A free size, as torch numbers them."""
_ATEN = re.compile(r"torch\.ops\.aten\.(\w{1,64})\.([A-Za-z]\w{0,63})", re.ASCII)
_CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict")
_DEEPEST = 8


class Refused(Exception):
    """A part that is none of those that are taken; its text says which."""


def operator(value: object) -> str:
    """The target of a node: an operator of OPERATORS in an overload that torch has, or arithmetic
    of sizes. Anything else is resolved by name, to any function at all."""
    if isinstance(value, str):
        found = _ATEN.fullmatch(value)
        if found and (found[1] in OPERATORS or found[1].removesuffix("_") in OPERATORS):
            packet = getattr(torch.ops.aten, found[1], None)
            if packet is not None and found[2] in packet.overloads():
                return value
        elif value in _SIZES:
            return value
    raise Refused(f"calls {value!r:.80}, which is none of the operators of image models")


def expression(value: object) -> str:
    """The expression of a size: torch gives it to a function that evaluates Python."""
    try:
        if not isinstance(value, str) or len(value) > _MOST_LETTERS:
            raise ValueError
        _check_expression(ast.parse(value.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Refused(f"holds {value!r:.80} for a size, which is no arithmetic of sizes") from None
    return value


def _check_expression(node: ast.AST) -> None:
    """Raises ValueError for anything but arithmetic of sizes and whole numbers."""
    match node:
        case ast.Constant(value=bool()):
            return
        case ast.Constant(value=int() | float() as number) if abs(number) <= _LARGEST:
            return
        case ast.Name(id=name) if SYMBOL.fullmatch(name) or name in ("true", "false", "oo"):
            return
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _check_expression(operand)
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.FloorDiv() | ast.Mod()):
            return _check_all([node.left, node.right])
        case ast.Compare():
            return _check_all([node.left, *node.comparators])
        case (
            ast.BinOp(op=ast.Pow(), right=power)
            | ast.Call(func=ast.Name(id="Pow"), args=[_, power], keywords=[])
        ):
            _check_power(power)
            return _check_all([node.left] if isinstance(node, ast.BinOp) else [node.args[0]])
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str() as name)]):
            if SYMBOL.fullmatch(name) and all(_is_assumption(x) for x in node.keywords):
                return
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _check_all(arguments)
    raise ValueError


def _check_all(nodes: list[ast.expr]) -> None:
    for node in nodes:
        _check_expression(node)


def _check_power(node: ast.expr) -> None:
    """Powers of powers would never be done."""
    match node:
        case ast.Call(func=ast.Name(id="Integer"), args=[ast.Constant(value=int() as power)]):
            pass
        case ast.Constant(value=int() as power):
            pass
        case _:
            raise ValueError
    if not 0 <= power <= _LARGEST_POWER:
        raise ValueError


def _is_assumption(keyword: ast.keyword) -> bool:
    value = keyword.value
    return (
        keyword.arg in _ASSUMPTIONS
        and isinstance(value, ast.Constant)
        and isinstance(value.value, bool)
    )


def structure(value: object) -> str:
    """How inputs or outputs are nested: tuples, lists and dicts. torch imports what others name."""
    try:
        protocol, content = json.loads(value) if isinstance(value, str) else (None, None)
        return json.dumps([_number(protocol), _nested(content, 0)])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Refused(f"nests its inputs or outputs as {value!r:.80}, not in tuples") from None


def _number(value: object) -> int:
    if type(value) is not int:
        raise ValueError
    return value


def _nested(value: object, depth: int) -> dict[str, object]:
    if not isinstance(value, Mapping) or depth > _DEEPEST:
        raise ValueError
    kind, context, inner = value["type"], value["context"], value["children_spec"]
    if kind not in (None, *_CONTAINERS) or not isinstance(inner, list):
        raise ValueError
    keys = json.loads(context) if isinstance(context, str) else None
    if keys is not None and (
        kind != "builtins.dict"
        or not isinstance(keys, list)
        or not all(isinstance(key, str) and key.isidentifier() for key in keys)
    ):
        raise ValueError
    return {
        "type": kind,
        "context": context,
        "children_spec": [_nested(x, depth + 1) for x in inner],
    }
