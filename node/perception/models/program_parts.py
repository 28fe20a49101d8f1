"""Validates the parts of an exported program that can name code: operators, size expressions and
structures. Each is checked against a list of what image models need, since torch would resolve or
evaluate anything."""

import ast
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Layers of torch.nn, and the operators that torch.export decomposes them into.
_LAYERS = _words(
    """
    adaptive_avg_pool1d _adaptive_avg_pool2d adaptive_avg_pool2d _adaptive_avg_pool3d
    adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d addmm affine_grid_generator
    alpha_dropout avg_pool1d avg_pool2d avg_pool3d batch_norm bilinear bmm channel_shuffle col2im
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution dropout
    embedding fake_quantize_per_tensor_affine feature_alpha_dropout feature_dropout grid_sampler
    grid_sampler_2d group_norm gru im2col instance_norm layer_norm linear lstm matmul max_pool1d
    max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices mm
    _native_batch_norm_legit _native_batch_norm_legit_no_training native_dropout native_group_norm
    native_layer_norm pixel_shuffle pixel_unshuffle rms_norm scaled_dot_product_attention
    upsample_bicubic2d _upsample_bicubic2d_aa upsample_bilinear2d _upsample_bilinear2d_aa
    upsample_linear1d upsample_nearest1d upsample_nearest2d _upsample_nearest_exact2d
    upsample_trilinear3d _weight_norm
    """
)
_ACTIVATIONS = _words(
    """
    celu elu gelu glu hardshrink hardsigmoid hardswish hardtanh leaky_relu log_sigmoid log_softmax
    _log_softmax logit mish prelu _prelu_kernel relu relu6 rrelu _safe_softmax selu sigmoid silu
    _softmax softmax softplus softshrink special_log_softmax special_softmax tanh threshold
    """
)
_ARITHMETIC = _words(
    """
    abs absolute acos acosh add addbmm addcdiv addcmul addmv all amax amin aminmax __and__ any
    arccos arcsin arctan argmax argmin argsort asin asinh atan atan2 atanh baddbmm bitwise_and
    bitwise_not bitwise_or bitwise_xor bucketize cdist ceil clamp clamp_max clamp_min clip cos cosh
    cosine_similarity count_nonzero cross cumprod cumsum diff div divide dot einsum eq erf erfc
    erfinv exp exp2 expm1 fix float_power floor floor_divide fmax fmin fmod frac ge greater
    greater_equal gt hypot inner isfinite isinf isnan le lerp less less_equal linalg_cross
    linalg_matrix_norm linalg_norm linalg_vector_norm log log10 log1p log2 logaddexp logcumsumexp
    logical_and logical_not logical_or logical_xor logsumexp lt max maximum mean median min minimum
    mul multiply mv nan_to_num nanmean nansum ne neg negative norm not_equal __or__ outer
    pairwise_distance positive pow prod reciprocal remainder round rsqrt rsub sgn sign sin sinc sinh
    sort special_erf special_exp2 special_expit special_log1p special_logit special_xlogy sqrt
    square std std_mean sub subtract sum tan tensordot topk true_divide trunc var var_mean xlogy
    """
)
# Shapes and the creation of tensors. Excluded: uninitialised memory (empty).
_SHAPES = _words(
    """
    alias arange as_strided _assert_async _assert_scalar _assert_tensor_metadata atleast_1d
    atleast_2d atleast_3d broadcast_tensors broadcast_to cat chunk clone column_stack concat
    concatenate constant_pad_nd contiguous copy detach diag_embed diagonal dstack expand expand_as
    eye fill flatten flip fliplr flipud full full_like gather hstack index index_add index_copy
    index_fill index_put index_select item lift_fresh lift_fresh_copy linspace mT masked_fill
    masked_select meshgrid moveaxis movedim narrow new_full new_ones new_zeros nonzero numpy_T
    one_hot ones ones_like pad permute ravel reflection_pad2d repeat repeat_interleave
    replication_pad2d reshape reshape_as roll rot90 row_stack scalar_tensor scatter scatter_add
    scatter_reduce searchsorted select select_scatter slice slice_scatter split split_with_sizes
    squeeze stack swapaxes swapdims sym_constrain_range sym_constrain_range_for_size sym_numel
    sym_size t take_along_dim tensor_split tile to _to_copy transpose tril triu type_as unbind
    unflatten unfold unsafe_chunk unsafe_split _unsafe_view unsqueeze view view_as vstack where zero
    zeros zeros_like
    """
)
OPERATORS = _LAYERS | _ACTIVATIONS | _ARITHMETIC | _SHAPES
"""Operators of torch.ops.aten, without the trailing underscore of in-place variants. None of them
accesses files, prints or accepts code."""
_SIZES = _words(
    """
    _operator.add _operator.sub _operator.mul _operator.floordiv _operator.mod _operator.neg
    _operator.truediv _operator.eq _operator.ne _operator.lt _operator.le _operator.gt _operator.ge
    _operator.and_ _operator.or_ math.ceil math.floor math.trunc torch.sym_float torch.sym_int
    torch.sym_max torch.sym_min torch.sym_not torch.sym_ite
    """
)
"""Arithmetic on sizes."""
_WRAPPERS = _words(
    """
    torch.ops.higher_order.wrap_with_set_grad_enabled torch.ops.higher_order.wrap_with_autocast
    """
)
"""Operators that torch.no_grad and torch.autocast within a network become: a graph in the graph."""
_FUNCTIONS = _words(
    """
    Integer Rational Float Add Mul Pow Max Min Mod PythonMod FloorDiv CeilDiv CleanDiv
    ModularIndexing Where Identity ToFloat IntTrueDiv FloatTrueDiv CeilToInt FloorToInt TruncToInt
    RoundToInt Eq Ne Lt Le Gt Ge Equality Unequality StrictLessThan LessThan StrictGreaterThan
    GreaterThan And Or Not
    """
)
_ASSUMPTIONS = _words("integer positive nonnegative negative nonzero zero real finite")
_MOST_LETTERS = 1500
"""Longest size expression, in characters."""
_LARGEST = 2**63
"""Largest constant in a size expression."""
_LARGEST_POWER = 8
"""Largest exponent in a size expression."""
_MOST_TERMS, _MOST_BITS, _MOST_CHOSEN = 512, 128, 12
"""Bounds of `_Extent`."""
_CHOOSING = ("Max", "Min", "And", "Or")
"""Functions that compare each argument with each other."""
SYMBOL = re.compile(r"(s|u|f|zf|zuf)\d{1,6}")
"""A dynamic size, as torch numbers them."""
_ATEN = re.compile(r"torch\.ops\.aten\.(\w{1,64})\.([A-Za-z]\w{0,63})", re.ASCII)
_CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict")
_DEEPEST = 8
"""Deepest nesting of inputs and outputs."""


class Refused(Exception):
    """A part of the file is not allowed; the text says which."""


def operator(value: object) -> str:
    """Returns the target of a node if it is an operator of OPERATORS in an existing overload, or
    arithmetic on sizes. torch resolves any other name to any function. Raises Refused."""
    if isinstance(value, str):
        aten_name = _ATEN.fullmatch(value)
        if aten_name and (aten_name[1] in OPERATORS or aten_name[1].removesuffix("_") in OPERATORS):
            packet = getattr(torch.ops.aten, aten_name[1], None)
            if packet is not None and aten_name[2] in packet.overloads():
                return value
        elif value in _SIZES or value in _WRAPPERS:
            return value
    raise Refused(f"calls {value!r:.80}, which is none of the operators of image models")


def expression(value: object) -> str:
    """Returns a size expression if it is only arithmetic; torch evaluates it as Python. Raises
    Refused."""
    try:
        if not isinstance(value, str) or len(value) > _MOST_LETTERS:
            raise ValueError
        _extent(ast.parse(value.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Refused(f"holds {value!r:.80} for a size, which is no arithmetic of sizes") from None
    return value


@dataclass(frozen=True, slots=True)
class _Extent:
    """Upper bounds of the evaluation of an expression, which cannot be interrupted. Raises
    ValueError above what the sizes of pictures need.

    Attributes:
        terms: number of terms after expansion.
        bits: bits of its numbers; a dynamic size counts as a large one.
        chosen: number of arguments of its maxima and minima, each compared with each.
    """

    terms: int
    bits: int
    chosen: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError above the bounds."""
        if self.terms > _MOST_TERMS or self.bits > _MOST_BITS or self.chosen > _MOST_CHOSEN:
            raise ValueError


_FREE = _Extent(terms=1, bits=8)


def _extent(node: ast.AST) -> _Extent:
    """Returns the bounds of an expression. Raises ValueError for anything but arithmetic on sizes
    and integers, and for expressions that would take long."""
    match node:
        case ast.Constant(value=bool()):
            return _FREE
        case ast.Constant(value=int() | float() as number) if abs(number) <= _LARGEST:
            return _Extent(1, int(abs(number)).bit_length())
        case ast.Name(id=name) if SYMBOL.fullmatch(name) or name in ("true", "false", "oo"):
            return _FREE
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _extent(operand)
        case ast.BinOp(op=ast.Mult()):
            return _product([_extent(node.left), _extent(node.right)])
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.FloorDiv() | ast.Mod()):
            return _sum([_extent(node.left), _extent(node.right)])
        case ast.Compare():
            return _sum([_extent(part) for part in (node.left, *node.comparators)])
        case (
            ast.BinOp(left=base, op=ast.Pow(), right=power)
            | ast.Call(func=ast.Name(id="Pow"), args=[base, power], keywords=[])
        ):
            return _product([_extent(base)] * _power(power))
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str() as name)]):
            if SYMBOL.fullmatch(name) and all(_is_assumption(part) for part in node.keywords):
                return _FREE
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            inner = [_extent(part) for part in arguments]
            return _product(inner) if name == "Mul" else _sum(inner, name in _CHOOSING)
    raise ValueError


def _sum(parts: list[_Extent], chosen: bool = False) -> _Extent:
    count = len(parts)
    return _Extent(
        sum(part.terms for part in parts),
        max((part.bits for part in parts), default=0) + count.bit_length(),
        sum(part.chosen for part in parts) + count * chosen,
    )


def _product(parts: list[_Extent]) -> _Extent:
    return _Extent(
        math.prod(part.terms for part in parts),
        sum(part.bits for part in parts),
        sum(part.chosen for part in parts),
    )


def _power(node: ast.expr) -> int:
    match node:
        case ast.Call(func=ast.Name(id="Integer"), args=[ast.Constant(value=int() as power)]):
            pass
        case ast.Constant(value=int() as power):
            pass
        case _:
            raise ValueError
    if not 0 <= power <= _LARGEST_POWER:
        raise ValueError
    return power


def _is_assumption(keyword: ast.keyword) -> bool:
    value = keyword.value
    return (
        keyword.arg in _ASSUMPTIONS
        and isinstance(value, ast.Constant)
        and isinstance(value.value, bool)
    )


def structure(value: object) -> str:
    """Returns the nesting of inputs or outputs if it uses only tuples, lists and dicts; torch would
    import other types by name. Raises Refused."""
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
        "children_spec": [_nested(child, depth + 1) for child in inner],
    }
