"""Imports run one way: each package uses those below it, and none beside it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

LAYERS = (
    {"perception_client"},
    {"node.errors"},
    {"node.process"},
    {"node.image", "node.data"},
    {"node.config"},
    {"node.capture", "node.perception", "node.transport", "node.recording"},
    {"node.web"},
    {"node.pipeline"},
    {"node.replay", "node.diagnostics"},
    {"node.cli"},
)
"""From the lowest; those in one layer never import each other."""
FACES = {"node", "node.client", "node.__main__"}
"""node: its version. node.client: the names of the client for users; the node does not use them."""
PACKAGES = ("node", "client/perception_client")
MOST_AT_THE_ROOT = 5


def modules() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to((ROOT / package).parent).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__"), ast.parse(file.read_text())


def imported(module: ast.Module) -> Iterator[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:  # a module of a package, or a name of a module
                whole = f"{node.module}.{alias.name}"
                yield whole if _is_module(whole) else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _is_module(name: str) -> bool:
    path = name.replace(".", "/")
    return any((ROOT / base / f"{path}{end}").exists() for base in (".", "client")
               for end in (".py", "/__init__.py"))  # fmt: skip


def package_of(name: str) -> str:
    return "perception_client" if name.startswith("perception_client") else ".".join(
        name.split(".")[:2]
    )  # fmt: skip


def layer(package: str) -> int:
    return next(index for index, packages in enumerate(LAYERS) if package in packages)


def test_each_package_imports_only_what_is_below_it() -> None:
    wrong = []
    for name, module in modules():
        own = package_of(name)
        if own in FACES:
            continue
        for other in imported(module):
            if not other.startswith(("node", "perception_client")) or other == "node":
                continue
            theirs = package_of(other)
            if theirs != own and layer(theirs) >= layer(own):
                wrong.append(f"{name} imports {other}")
    assert not wrong


def test_no_module_is_in_a_circle() -> None:
    uses = {
        name: {other for other in imported(module) if other != name} for name, module in modules()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join((*path, name))}"
        if name in done or name not in uses:
            return
        for other in uses[name]:
            visit(other, (*path, name))
        done.add(name)

    for name in uses:
        visit(name, ())


def test_the_root_stays_small() -> None:
    at_root = [file for file in (ROOT / "node").glob("*.py") if file.name != "__init__.py"]
    assert len(at_root) <= MOST_AT_THE_ROOT


def test_the_architecture_page_lists_every_package_once() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    listed = re.findall(r"^\| `((?:node|perception_client)[\w/]*)` \|", page, re.M)
    folders = [
        str(file.parent.relative_to((ROOT / package).parent))
        for package in PACKAGES
        for file in (ROOT / package).rglob("__init__.py")
    ]
    assert sorted(listed) == sorted(folders)


def test_the_architecture_page_lists_packages_from_the_lowest_layer_up() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    listed = re.findall(r"^\| `((?:node|perception_client)[\w/]*)` \|", page, re.M)
    layers = [layer(package_of(name.replace("/", "."))) for name in listed if name != "node"]
    assert layers == sorted(layers)


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_says_what_it_is_for(package: str) -> None:
    for folder in {file.parent for file in (ROOT / package).rglob("*.py")}:
        docstring = ast.get_docstring(ast.parse((Path(folder) / "__init__.py").read_text()))
        assert docstring, folder
