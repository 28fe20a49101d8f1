"""No function and no class grows beyond what a reader can hold in mind."""

import ast
from collections.abc import Iterator

from test_imports import modules

MAX_FUNCTION_LINES = 60
MAX_INSTANCE_ATTRIBUTES = 20
EXEMPT = "Long: "
"""In a docstring, before the reason for which the function or class is larger."""

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _definitions() -> Iterator[tuple[str, _Function | ast.ClassDef]]:
    for name, module in modules():
        for definition in ast.walk(module):
            if isinstance(definition, _Function | ast.ClassDef) and EXEMPT not in (
                ast.get_docstring(definition) or ""
            ):
                yield f"{name}.{definition.name}", definition


def _instance_attributes(definition: ast.ClassDef) -> set[str]:
    return {
        part.attr
        for part in ast.walk(definition)
        if isinstance(part, ast.Attribute)
        and isinstance(part.ctx, ast.Store)
        and isinstance(part.value, ast.Name)
        and part.value.id == "self"
    }


def test_no_function_is_long() -> None:
    lines = {
        name: (definition.end_lineno or 0) - definition.lineno + 1
        for name, definition in _definitions()
        if isinstance(definition, _Function)
    }
    assert {name: count for name, count in lines.items() if count > MAX_FUNCTION_LINES} == {}


def test_no_class_has_many_attributes() -> None:
    attributes = {
        name: len(_instance_attributes(definition))
        for name, definition in _definitions()
        if isinstance(definition, ast.ClassDef)
    }
    assert {
        name: count for name, count in attributes.items() if count > MAX_INSTANCE_ATTRIBUTES
    } == {}
