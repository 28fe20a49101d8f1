"""Validates the graph of an exported program, its JSON, key by key. Unlisted keys are removed and
unlisted values refused, so only listed content reaches torch, which turns names into Python
code."""

import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any

from node.perception.models.program_parts import SYMBOL, Refused, expression, operator, structure

Take = Callable[[object], Any]
"""Returns the value of the JSON as it may be passed to torch, or raises Refused."""

_NAME = re.compile(r"(?!__)[A-Za-z_]\w{0,255}", re.ASCII)
_PATH = re.compile(r"(?!__)\w[\w-]{0,127}(\.(?!__)\w[\w-]{0,127}){0,31}", re.ASCII)
"""Modules that were added by name may contain a minus: `block1-0`."""
_WORD = re.compile(r"[A-Za-z0-9_ ,.>-]{0,64}")
_LARGEST = 1 << 64
"""Beyond all numbers that torch stores."""


def graph(value: object) -> dict[str, Any]:
    """Validates the whole of `models/NAME.json`. Raises Refused."""
    program: dict[str, Any] = _PROGRAM(value)
    inner = program["graph_module"]
    # Only the outermost call is needed for inference, and guards are Python code.
    inner["module_call_graph"] = [call for call in inner["module_call_graph"] if call["fqn"] == ""]
    return {**program, "guards_code": []}


def payload(value: object) -> dict[str, Any]:
    """Validates the list of tensors, `NAME_config.json` of weights or constants. Raises Refused."""
    tensors: dict[str, Any] = _PAYLOAD(value)["config"]
    return tensors


def _record(keys: Mapping[str, Take]) -> Take:
    def take(value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Refused(f"has {value!r:.40} where a map is expected")
        return {key: of(value[key]) for key, of in keys.items() if key in value}

    return take


def _one_of(kinds: Mapping[str, Take]) -> Take:
    def take(value: object) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) != 1:
            raise Refused(f"has {value!r:.40} where one value is expected")
        ((kind, content),) = value.items()
        if kind not in kinds:
            raise Refused(f"holds {kind!r:.40}, which is neither a tensor nor a number")
        return {kind: kinds[kind](content)}

    return take


def _list(item: Take) -> Take:
    def take(value: object) -> list[Any]:
        if not isinstance(value, list):
            raise Refused(f"has {value!r:.40} where a list is expected")
        return [item(element) for element in value]

    return take


def _map(key: Take, item: Take) -> Take:
    def take(value: object) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Refused(f"has {value!r:.40} where a map is expected")
        return {key(raw_key): item(raw_item) for raw_key, raw_item in value.items()}

    return take


def _or_none(item: Take) -> Take:
    return lambda value: None if value is None else item(value)


def _is(kind: type, *, also: tuple[object, ...] = ()) -> Take:
    def take(value: object) -> Any:
        if type(value) is kind or value in also:
            return value
        raise Refused(f"has {value!r:.40} where {kind.__name__} is expected")

    return take


def _text(pattern: re.Pattern[str]) -> Take:
    def take(value: object) -> str:
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        raise Refused(f"has {value!r:.60} for a name")

    return take


def _name(value: object) -> str:
    name: str = _text(_NAME)(value)
    if keyword.iskeyword(name):
        raise Refused(f"has {name!r} for a name")
    return name


def _name_or_none(value: object) -> str:
    """Arguments of an operator that runs a graph have no names."""
    return "" if value == "" else _name(value)


def _path(value: object) -> str:
    return "" if value == "" else str(_text(_PATH)(value))


def _removed(value: object) -> dict[str, Any]:
    """Removes the notes about a node, whose origins torch would look up by name."""
    return {}


def _number(value: object) -> float | int | str:
    if type(value) in (int, float) or value in ("Infinity", "-Infinity", "NaN"):
        return value  # type: ignore[return-value]
    raise Refused(f"has {value!r:.40} where a number is expected")


def _integer(value: object) -> int:
    if type(value) is int and abs(value) <= _LARGEST:
        return value
    raise Refused(f"has {value!r:.40} where int is expected")


_INT, _BOOL = _integer, _is(bool)
_DEVICE = _record({"type": _text(re.compile("cpu|cuda")), "index": _or_none(_INT)})
_HINT = _or_none(_one_of({"as_int": _INT, "as_bool": _BOOL, "as_float": _number}))
_EXPRESSION = _record({"expr_str": expression, "hint": _HINT})
_SYM_INT = _one_of({"as_expr": _EXPRESSION, "as_int": _INT})
_SYM_BOOL = _one_of({"as_expr": _EXPRESSION, "as_bool": _BOOL})
_SYM_FLOAT = _one_of({"as_expr": _EXPRESSION, "as_float": _number})
_TENSOR_META = _record(
    {
        "dtype": _INT,
        "sizes": _list(_SYM_INT),
        "requires_grad": _BOOL,
        "device": _DEVICE,
        "strides": _list(_SYM_INT),
        "storage_offset": _SYM_INT,
        "layout": _INT,
    }
)
_TENSOR = _record({"name": _name})
_MAYBE_TENSOR = _one_of({"as_tensor": _TENSOR, "as_none": _BOOL})
_INT_ARGUMENT = _one_of({"as_name": _name, "as_int": _INT})
_BOOL_ARGUMENT = _one_of({"as_name": _name, "as_bool": _BOOL})
_FLOAT_ARGUMENT = _one_of({"as_name": _name, "as_float": _number})


def _inner_graph(value: object) -> dict[str, Any]:
    """Validates the graph of an operator that runs one, in the same form as the whole."""
    validated: dict[str, Any] = _record({"name": _name, "graph": _GRAPH})(value)
    return validated


_ARGUMENT = _one_of(
    {
        "as_graph": _inner_graph,
        "as_none": _is(bool, also=((), None)),
        "as_tensor": _TENSOR,
        "as_tensors": _list(_TENSOR),
        "as_optional_tensor": _MAYBE_TENSOR,
        "as_optional_tensors": _list(_MAYBE_TENSOR),
        "as_nested_tensors": _list(_list(_TENSOR)),
        "as_int": _INT,
        "as_ints": _list(_INT),
        "as_float": _number,
        "as_floats": _list(_number),
        "as_bool": _BOOL,
        "as_bools": _list(_BOOL),
        "as_string": _text(_WORD),
        "as_sym_int": _INT_ARGUMENT,
        "as_sym_ints": _list(_INT_ARGUMENT),
        "as_sym_bool": _BOOL_ARGUMENT,
        "as_sym_bools": _list(_BOOL_ARGUMENT),
        "as_sym_float": _FLOAT_ARGUMENT,
        "as_sym_floats": _list(_FLOAT_ARGUMENT),
        "as_scalar_type": _INT,
        "as_memory_format": _INT,
        "as_layout": _INT,
        "as_device": _DEVICE,
    }
)
_NODE = _record(
    {
        "target": operator,
        "inputs": _list(_record({"name": _name_or_none, "arg": _ARGUMENT, "kind": _or_none(_INT)})),
        "outputs": _list(_ARGUMENT),
        "metadata": _removed,
        "is_hop_single_tensor_return": _or_none(_BOOL),
        "name": _or_none(_name),
    }
)
_GRAPH = _record(
    {
        "inputs": _list(_ARGUMENT),
        "outputs": _list(_ARGUMENT),
        "nodes": _list(_NODE),
        "tensor_values": _map(_name, _TENSOR_META),
        "sym_int_values": _map(_name, _SYM_INT),
        "sym_bool_values": _map(_name, _SYM_BOOL),
        "sym_float_values": _map(_name, _SYM_FLOAT),
        "is_single_tensor_return": _BOOL,
    }
)
_CONSTANT = _one_of(
    {
        "as_none": _is(bool, also=((), None)),
        "as_int": _INT,
        "as_float": _number,
        "as_string": _text(_WORD),
        "as_bool": _BOOL,
    }
)
_INPUT = _one_of(
    {
        "user_input": _record({"arg": _ARGUMENT}),
        "parameter": _record({"arg": _TENSOR, "parameter_name": _path}),
        "buffer": _record({"arg": _TENSOR, "buffer_name": _path, "persistent": _BOOL}),
        "tensor_constant": _record({"arg": _TENSOR, "tensor_constant_name": _path}),
        "constant_input": _record({"name": _name, "value": _CONSTANT}),
    }
)
_OUTPUT = _one_of(
    {
        "user_output": _record({"arg": _ARGUMENT}),
        "buffer_mutation": _record({"arg": _TENSOR, "buffer_name": _path}),
    }
)
_CALL = _record(
    {
        "inputs": _list(_ARGUMENT),
        "outputs": _list(_ARGUMENT),
        "in_spec": structure,
        "out_spec": structure,
        "forward_arg_names": _or_none(_list(_name)),
    }
)


def _call(value: object) -> dict[str, Any]:
    """Keeps only the outermost call; the content of the others is removed unread."""
    if isinstance(value, dict) and value.get("fqn") == "":
        return {"fqn": "", "signature": _or_none(_CALL)(value.get("signature"))}
    return {"fqn": "inner"}


_MODULE = _record(
    {
        "graph": _GRAPH,
        "signature": _record({"input_specs": _list(_INPUT), "output_specs": _list(_OUTPUT)}),
        "module_call_graph": _list(_call),
        "metadata": _removed,
    }
)
_PROGRAM = _record(
    {
        "graph_module": _MODULE,
        "opset_version": _map(_name, _INT),
        "range_constraints": _map(
            _text(SYMBOL), _record({"min_val": _or_none(_INT), "max_val": _or_none(_INT)})
        ),
        "schema_version": _record({"major": _INT, "minor": _INT}),
        "verifiers": _list(_text(re.compile("[A-Z_]{0,32}"))),
        "torch_version": _text(re.compile(r"[\w.+<=-]{1,64}", re.ASCII)),
    }
)
_PAYLOAD = _record(
    {
        "config": _map(
            _path,
            _record(
                {
                    "path_name": _text(re.compile(r"(weight|tensor)_\d{1,9}")),
                    "is_param": _BOOL,
                    "use_pickle": _BOOL,
                    "tensor_meta": _TENSOR_META,
                }
            ),
        )
    }
)
