"""Exported programs (.pt2) run as they were saved, and nothing that a hostile one holds is run."""

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from node.errors import ModelError
from node.perception.models.exported_program import ExportedProgram
from node.perception.models.program_parts import Refused, expression, operator


class Small(nn.Module):
    """A classifier of three layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2)
        self.last = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        pooled = nn.functional.adaptive_avg_pool2d(torch.relu(self.first(x)), 1)
        logits: torch.Tensor = self.last(torch.flatten(pooled, 1))
        return logits


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its program, for any number of pictures at once."""
    file = tmp_path_factory.mktemp("program") / "small.pt2"
    free = ({0: torch.export.Dim("n", min=1, max=64), 2: torch.export.Dim.AUTO},)
    picture = torch.zeros(2, 3, 32, 40)
    torch.export.save(torch.export.export(Small().eval(), (picture,), dynamic_shapes=free), file)
    return file


Json = Any  # of a file, so of any shape


def rewritten(good: Path, bad: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The archive with other members, by their names below its top folder."""
    with zipfile.ZipFile(good) as archive:
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(bad, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"small/{name}", content)
    return bad


def in_json(change: Callable[[Json], None], name: str = "models/model.json") -> Any:
    def apply(members: dict[str, bytes]) -> None:
        content = json.loads(members[name])
        change(content)
        members[name] = json.dumps(content).encode()

    return apply


def test_a_program_gives_what_the_network_gave(good: Path) -> None:
    ours, theirs = ExportedProgram(good), torch.export.load(good).module()
    for count, height in ((1, 32), (5, 48)):
        pictures = torch.rand(count, 3, height, 40)
        with torch.inference_mode():
            assert torch.equal(ours(pictures), theirs(pictures))


def first_size(program: Json, expression: str) -> None:
    for tensor in program["graph_module"]["graph"]["tensor_values"].values():
        for size in tensor["sizes"]:
            if "as_expr" in size:
                size["as_expr"]["expr_str"] = expression
                return
    raise AssertionError("no free size")


def node(program: Json, index: int, target: str, *arguments: Json) -> None:
    changed = program["graph_module"]["graph"]["nodes"][index]
    changed["target"] = target
    changed["inputs"] = [{"name": name, "arg": argument, "kind": 1} for name, argument in arguments]


def renamed(program: Json, old: str, new: str) -> None:
    text = json.dumps(program)
    assert f'"{old}"' in text
    program.update(json.loads(text.replace(f'"{old}"', json.dumps(new))))


RUN = "__import__('os').mkdir('{trace}')"
IN_THE_GRAPH: list[tuple[str, Callable[[Json, str], None]]] = [
    ("size", lambda p, t: first_size(p, RUN.format(trace=t))),
    ("size in a symbol", lambda p, t: first_size(p, f"Symbol({RUN.format(trace=t)!r})")),
    ("function", lambda p, t: node(p, 1, "torch.os.mkdir", ("", {"as_string": t}))),
    (
        "file",
        lambda p, t: node(
            p, 0, "torch.ops.aten.from_file.default",
            ("filename", {"as_string": t}), ("shared", {"as_bool": True}), ("size", {"as_int": 9}),
        ),
    ),
    ("method of an operator", lambda p, t: node(p, 1, "torch.ops.aten.relu.py_impl")),
    ("sub-graph", lambda p, t: node(p, 1, "torch.ops.higher_order.cond")),
    ("name of a node", lambda p, t: renamed(p, "relu", f"relu = {RUN.format(trace=t)}; relu")),
    ("name of a weight", lambda p, t: renamed(p, "first.weight", f'a")+{RUN.format(trace=t)}+("')),
    (
        "argument's name",
        lambda p, t: p["graph_module"]["module_call_graph"][0]["signature"].update(
            forward_arg_names=[f"x={RUN.format(trace=t)}"]
        ),
    ),
    (
        "argument that is a function",
        lambda p, t: node(p, 1, "torch.ops.aten.relu.default", ("self", {"as_operator": "torch"})),
    ),
    (
        "structure",
        lambda p, t: p["graph_module"]["module_call_graph"][0]["signature"].update(
            in_spec='[1, {"type": "collections.defaultdict", "context": "[]", "children_spec": []}]'
        ),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    "change", [case[1] for case in IN_THE_GRAPH], ids=[case[0] for case in IN_THE_GRAPH]
)
def test_a_graph_that_names_code_is_refused(
    good: Path, tmp_path: Path, change: Callable[[Json, str], None]
) -> None:
    trace = tmp_path / "it-ran"
    bad = rewritten(
        good, tmp_path / "bad.pt2", in_json(lambda program: change(program, str(trace)))
    )
    with pytest.raises(
        ModelError, match=r"bad\.pt2: .*could run code; export the network"
    ) as caught:
        ExportedProgram(bad)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


SIZE = "Symbol('s1', integer=True)"
MOST_SUMS = ", ".join(f"Add({SIZE}, Integer({n}))" for n in range(30))


def nested(function: str, inner: str, last: str, depth: int) -> str:
    for _ in range(depth):
        inner = f"{function}({inner}, {last})"
    return inner


@pytest.mark.parametrize(
    "size",
    [
        nested("Pow", "Integer(9000000000000000000)", "Integer(8)", 9),
        nested("Pow", f"Add({SIZE}, Integer(1))", "Integer(8)", 5),
        f"FloorDiv(Mul({MOST_SUMS}), Add({SIZE}, Integer(5)))"[:1400],
        nested("FloorDiv", SIZE, "Integer(2)", 75),
        "Max(" + ", ".join(f"Mul(s{n}, s{n + 1})" for n in range(40)) + ")",
    ],
)
def test_a_size_that_would_take_for_ever_is_refused(size: str) -> None:
    with pytest.raises(Refused, match="no arithmetic of sizes"):
        expression(size)


def test_sizes_of_deep_networks_are_taken() -> None:
    halved = nested("FloorDiv", f"Add({SIZE}, Integer(-1))", "Integer(2)", 5)
    side = f"Max(Integer(1), Add({halved}, Integer(1)))"
    assert expression(f"Mul(Integer(1024), s77, {side}, {side})")


class Wrapped(nn.Module):
    """What users write around and within their networks."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential()
        self.first.add_module("block1-0", nn.Conv2d(3, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        with torch.no_grad():
            scaled = x.clip(0, 1).divide(2)
        with torch.autocast("cpu", enabled=False):
            features = self.first(scaled)
        return torch.hstack([features, features]).logsumexp((2, 3))


def test_a_network_with_wrappers_and_other_names_of_operators_runs(tmp_path: Path) -> None:
    file, network = tmp_path / "wrapped.pt2", Wrapped().eval()
    pictures = torch.rand(1, 3, 8, 8)
    torch.export.save(torch.export.export(network, (pictures,)), file)
    assert torch.allclose(ExportedProgram(file)(pictures), network(pictures))  # type: ignore[arg-type]


def test_a_graph_within_a_graph_is_looked_at(tmp_path: Path) -> None:
    good, trace = tmp_path / "good.pt2", tmp_path / "it-ran"
    torch.export.save(torch.export.export(Wrapped().eval(), (torch.rand(1, 3, 8, 8),)), good)

    def change(program: Json) -> None:
        for entry in program["graph_module"]["graph"]["nodes"]:
            for argument in entry["inputs"]:
                if "as_graph" in argument["arg"]:
                    inner = argument["arg"]["as_graph"]["graph"]["nodes"][0]
                    inner["target"] = "torch.os.mkdir"
                    inner["inputs"] = [{"name": "", "arg": {"as_string": str(trace)}, "kind": 1}]
                    return
        raise AssertionError("no graph in the graph")

    with pytest.raises(ModelError, match=r"torch\.os\.mkdir.*could run code"):
        ExportedProgram(rewritten(good, tmp_path / "bad.pt2", in_json(change)))
    assert not trace.exists()


def test_guards_and_notes_of_a_graph_are_left_out(good: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"

    def change(program: Json) -> None:
        program["guards_code"] = [RUN.format(trace=trace)]
        for entry in program["graph_module"]["graph"]["nodes"]:
            entry["metadata"] = {"source_fn_stack": "a,torch.os.mkdir", "custom": "["}

    bad = rewritten(good, tmp_path / "bad.pt2", in_json(change))
    assert ExportedProgram(bad)(torch.zeros(1, 3, 32, 40)).shape == (1, 5)
    assert not trace.exists()


class Attack:
    """What a hostile file would have unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (str(self._trace),))


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ("data/sample_inputs/model.pt", None),
        ("data/weights/model.pt", "neither graph nor tensor"),
        ("data/constants/model.pt", "neither graph nor tensor"),
        ("data/constants/opaque_obj_0", "neither graph nor tensor"),
        ("data/aotinductor/small/m.so", "neither graph nor tensor"),
        ("models/other.json", "holds 2 models"),
    ],
)
def test_nothing_that_is_pickled_or_compiled_is_read(
    good: Path, tmp_path: Path, member: str, reason: str | None
) -> None:
    trace = tmp_path / "it-ran"
    pickled = io.BytesIO()
    torch.save((Attack(trace),), pickled)
    bad = rewritten(
        good, tmp_path / "bad.pt2", lambda members: members.update({member: pickled.getvalue()})
    )
    if reason is None:
        ExportedProgram(bad)
    else:
        with pytest.raises(ModelError, match=reason):
            ExportedProgram(bad)
    assert not trace.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_a_pickled_weight_is_refused(good: Path, tmp_path: Path) -> None:
    change = in_json(
        lambda listed: listed["config"]["last.bias"].update(use_pickle=True),
        "data/weights/model_weights_config.json",
    )
    with pytest.raises(ModelError, match=r"'last\.bias' pickled, which can run code"):
        ExportedProgram(rewritten(good, tmp_path / "bad.pt2", change))


def test_sizes_that_are_not_there_are_refused(good: Path, tmp_path: Path) -> None:
    def empty(members: dict[str, bytes]) -> None:
        """torch makes as many zeros as an empty weight claims."""
        in_json(claim, "data/weights/model_weights_config.json")(members)
        members["data/weights/weight_3"] = b""

    def claim(listed: Json) -> None:
        about = listed["config"]["last.bias"]
        about["path_name"] = "weight_3"
        about["tensor_meta"]["sizes"] = [{"as_int": 1 << 20}, {"as_int": 1 << 20}]

    with pytest.raises(ModelError, match=r"has \[1048576, 1048576\] numbers, in 0 bytes"):
        ExportedProgram(rewritten(good, tmp_path / "bad.pt2", empty))

    packed = tmp_path / "packed.pt2"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("small/models/small.json", b" " * (1 << 20))
    with pytest.raises(ModelError, match=r"packed, as torch\.export\.save never does"):
        ExportedProgram(packed)


@pytest.mark.parametrize("content", [b"", b"x", b"PK\x05\x06" + b"\0" * 18])
def test_what_is_no_program_is_one_line(
    tmp_path: Path, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.pt2").write_bytes(content)
    with pytest.raises(ModelError, match=r"a\.pt2") as caught:
        ExportedProgram(tmp_path / "a.pt2")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "text",
    [
        "s0", "2*s0 + 1", "Symbol('s77', positive=True, integer=True)", "s3**2", "Eq(s0, 1)",
        "Add(Mul(Integer(2), FloorDiv(Symbol('u3', integer=True), Integer(8))), Integer(-1))",
    ],
)  # fmt: skip
def test_arithmetic_of_sizes_is_taken(text: str) -> None:
    assert expression(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "Symbol('x')", "Integer('1')", "s0.__class__", "9**9**9", "Max(key=1)", "[s0]", "s0()",
        "Pow(Integer(2), Pow(Integer(9), Integer(9)))", "Add(*[1])", "lambda: 1", "f'{s0}'",
        "(s0 := 1)", "Symbol('s0', **{})", "S('1')", "s" * 5000, "(" * 900 + "s0" + ")" * 900,
        "-" * 3900 + "1", "s0 if s0 else s1", "1e999", "", None, 5,
    ],
)  # fmt: skip
def test_other_expressions_are_refused(text: object) -> None:
    with pytest.raises(Refused):
        expression(text)


@pytest.mark.parametrize(
    "name",
    [
        "torch.hub.load", "torch.ops.aten.save.default", "torch.ops.aten.conv2d.py_impl",
        "torch.ops.aten.conv2d.__init__", "torch.ops.aten.conv2d", "_operator.attrgetter",
        "math.__loader__", "#extension:x", "torch.ops.aten.relu.default\n", "", None, ["a"],
    ],
)  # fmt: skip
def test_other_functions_are_refused(name: object) -> None:
    with pytest.raises(Refused):
        operator(name)
