"""A model file and its card have files read that lie beside them, and no others."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import openvino as ov
import pytest
import torch
from conftest import Run
from onnx import TensorProto, helper, numpy_helper
from PIL import Image as PilImage

from node.errors import ModelError
from node.perception.models.onnx_file import external_files, read_onnx
from node.perception.models.registry import load_model
from node.perception.models.weights import read_weights
from node.perception.runtimes.export import exported
from node.perception.runtimes.export_key import export_key
from node.perception.runtimes.tuning_result import result_file

CARD = """
name = "mine"
task = "classify"
labels = {labels}
[input]
size = [32, 32]
"""
SECRET = "the-secret-of-another-user"


def onnx_model(bias: list[float]) -> onnx.ModelProto:
    """Three classes by the mean of the colours."""

    def value(name: str, shape: list[int | str]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1),
    ]
    weights = [
        numpy_helper.from_array(np.zeros((3, 3), np.float32), "w"),
        numpy_helper.from_array(np.array(bias, np.float32), "b"),
    ]
    graph = helper.make_graph(
        nodes, "g", [value("x", ["n", 3, 32, 32])], [value("y", ["n", 3])], weights
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of a stranger's, and beside its folder what only the node may read."""
    made = tmp_path / "model"
    made.mkdir()
    (tmp_path / "secret.txt").write_text(f"{SECRET}\nb\nc\n")
    onnx.save(onnx_model([1, 0, 0]), str(made / "mine.onnx"))
    (made / "mine.toml").write_text(CARD.format(labels='["a", "b", "c"]'))
    return made


def test_labels_lie_beside_the_model(folder: Path) -> None:
    (folder / "names").mkdir()
    (folder / "names" / "labels.txt").write_bytes("\ufeffä\r\nn01\ttench\r\n\u200dc\r\n".encode())
    (folder / "mine.toml").write_text(CARD.format(labels='"names/../names/labels.txt"'))
    assert load_model(str(folder / "mine.onnx")).label_names == ("ä", "n01\ttench", "\u200dc")


def linked(folder: Path) -> str:
    (folder / "labels.txt").symlink_to(folder.parent / "secret.txt")
    return "labels.txt"


def in_a_circle(folder: Path) -> str:
    (folder / "labels.txt").symlink_to(folder / "labels.txt")
    return "labels.txt"


def a_pipe(folder: Path) -> str:
    os.mkfifo(folder / "labels.txt")
    return "labels.txt"


def below_a_link(folder: Path) -> str:
    (folder / "names").symlink_to(folder.parent)
    return "names/secret.txt"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (lambda folder: "../secret.txt", "is not in its folder"),
        (lambda folder: str(folder.parent / "secret.txt"), "is not in its folder"),
        (lambda folder: "/proc/self/environ", "is not in its folder"),
        (linked, "is not in its folder"),
        (below_a_link, "is not in its folder"),
        (in_a_circle, "cannot be read beside it"),
        (a_pipe, "is not a regular file"),
        (lambda folder: ".", "is not a regular file"),
    ],
)
def test_labels_from_elsewhere_are_not_published(
    folder: Path, in_process: Run, name: Callable[[Path], str], reason: str
) -> None:
    (folder / "mine.toml").write_text(CARD.format(labels=f'"{name(folder)}"'))
    PilImage.new("RGB", (40, 40)).save(folder / "p.png")
    done = in_process("label", folder / "p.png", "--model", folder / "mine.onnx")
    assert done.returncode == 3
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["\x1b[31mred", "a\u202eb", "x" * 201])
def test_labels_that_a_terminal_obeys_are_refused(folder: Path, name: str) -> None:
    (folder / "labels.txt").write_text(f"a\n{name}\nc\n")
    (folder / "mine.toml").write_text(CARD.format(labels='"labels.txt"'))
    with pytest.raises(ModelError, match="is no name: at most 200 characters") as caught:
        load_model(str(folder / "mine.onnx"))
    assert "\x1b" not in str(caught.value)


def test_files_without_end_are_refused(folder: Path) -> None:
    with (folder / "labels.txt").open("wb") as stream:
        stream.truncate(1 << 40)
    (folder / "mine.toml").write_text(CARD.format(labels='"labels.txt"'))
    with pytest.raises(ModelError, match=r"labels\.txt cannot be read; name a text"):
        load_model(str(folder / "mine.onnx"))
    with (folder / "mine.toml").open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(ModelError, match=r"mine\.toml is not valid TOML: it has more than 2 MiB"):
        load_model(str(folder / "mine.onnx"))


def test_a_card_that_is_nested_without_end_is_one_line(folder: Path) -> None:
    (folder / "mine.toml").write_text("labels = " + "[" * 100_000)
    with pytest.raises(ModelError, match=r"mine\.toml is not valid TOML") as caught:
        load_model(str(folder / "mine.onnx"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mine.onnx", "mine.xml", "mine.pt2", "mine.toml"])
def test_a_pipe_is_no_model(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    model = "mine.onnx" if name == "mine.toml" else name
    with pytest.raises(ModelError, match="is not a regular file"):
        load_model(str(folder / model))


def external(folder: Path, *locations: str) -> None:
    """The model with each of its tensors in another file."""
    model = onnx_model([1, 0, 0])
    for tensor, location in zip(model.graph.initializer, locations, strict=True):
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
    (folder / "mine.onnx").write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "location",
    [
        "../secret.txt",
        "/etc/passwd",
        "link",
        "*/_ORT_MEM_ADDR_/*",
        "",
        "sub/../../secret.txt",
        "\0",
    ],
)
def test_tensors_from_elsewhere_are_refused(folder: Path, location: str) -> None:
    (folder / "w").write_bytes(bytes(36))
    (folder / "sub").mkdir()
    (folder / "link").symlink_to(folder.parent / "secret.txt")
    external(folder, "w", location)
    with pytest.raises(
        ModelError, match=r"is not in its folder|cannot be read beside|not a regular"
    ):
        load_model(str(folder / "mine.onnx"))


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 37), (1, 36), (-4, 8), (0, -1), (0, 1 << 62), (1 << 70, 4), (9, 1 << 80)],
)
def test_tensors_that_claim_more_than_their_file_are_refused(
    folder: Path, offset: int, length: int
) -> None:
    (folder / "w").write_bytes(bytes(36))
    external(folder, "w", "w")
    model = onnx.load(str(folder / "mine.onnx"), load_external_data=False)
    for key, value in (("offset", offset), ("length", length)):
        model.graph.initializer[0].external_data.add(key=key, value=str(value))
    (folder / "mine.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"'w' cannot be read from w \(it ends after 36 bytes\)"):
        read_onnx(folder / "mine.onnx")


@pytest.mark.parametrize("begin", [b"", b"\n\t<?xml 90"])
def test_another_format_under_the_name_of_one_is_refused(folder: Path, begin: bytes) -> None:
    """OpenVINO would read it as what it is, and its tensors from anywhere. Before a graph may stand
    a field that no reader of ONNX knows."""
    external(folder, "../secret.txt", "../secret.txt")
    (folder / "mine.xml").write_bytes(begin + (folder / "mine.onnx").read_bytes())
    with pytest.raises(ModelError, match=r"mine\.xml cannot be read \(it is no OpenVINO IR\)"):
        load_model(str(folder / "mine.xml"))


@pytest.mark.parametrize("content", [b"", b"\x0a\x02ab"])
def test_what_holds_no_graph_is_no_onnx(folder: Path, content: bytes) -> None:
    (folder / "mine.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"mine\.onnx cannot be read"):
        load_model(str(folder / "mine.onnx"))


def test_tensors_in_constants_and_branches_are_looked_at(folder: Path) -> None:
    def hidden() -> onnx.TensorProto:
        tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[3])
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../secret.txt")
        return tensor

    constant = helper.make_node("Constant", [], ["c"], value=hidden())
    branch = helper.make_graph([], "b", [], [], [hidden()])
    function = helper.make_function("own", "F", [], ["c"], [constant], [])
    for change in (
        lambda model: model.graph.node.append(constant),
        lambda model: model.graph.node.append(
            helper.make_node("If", ["x"], ["o"], then_branch=branch)
        ),
        lambda model: model.functions.append(function),
        lambda model: model.graph.sparse_initializer.add().values.CopyFrom(hidden()),
    ):
        model = onnx_model([1, 0, 0])
        change(model)
        (folder / "mine.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(ModelError, match="is not in its folder"):
            external_files(folder / "mine.onnx")


def test_tensors_beside_the_model_are_part_of_it(folder: Path) -> None:
    external(folder, "w.data", "b.data")
    (folder / "w.data").write_bytes(bytes(36))
    digests = []
    for best in range(2):
        bias = np.zeros(3, np.float32)
        bias[best] = 1
        (folder / "b.data").write_bytes(bias.tobytes())
        digests.append(load_model(str(folder / "mine.onnx")).digest)
    assert digests[0] != digests[1]


def test_weights_of_an_openvino_file_lie_beside_it(folder: Path) -> None:
    ov.save_model(ov.Core().read_model(folder / "mine.onnx"), folder / "mine.xml")
    assert load_model(str(folder / "mine.xml")).name == "mine"
    (folder / "mine.bin").rename(folder.parent / "mine.bin")
    (folder / "mine.bin").symlink_to(folder.parent / "mine.bin")
    with pytest.raises(ModelError, match=r"'mine\.bin' is not in its folder"):
        load_model(str(folder / "mine.xml"))


def test_a_model_that_is_a_link_has_its_files_beside_what_it_links_to(folder: Path) -> None:
    (folder / "labels.txt").write_text("a\nb\nc\n")
    (folder / "mine.toml").write_text(CARD.format(labels='"labels.txt"'))
    here = folder.parent / "here"
    here.mkdir()
    for name in ("mine.onnx", "mine.toml", "labels.txt"):
        (here / name).symlink_to(folder / name)
    assert load_model(str(here / "mine.onnx")).label_names == ("a", "b", "c")


def test_weights_with_a_damaged_table_of_contents_are_one_error(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save({"w": torch.zeros(9)}, file)
    data = bytearray(file.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    data[entry + 9], data[entry + 46] = 0x08, 0x80  # a name that claims to be UTF-8, and is not
    data[entry + 10] = 99  # a way of packing that nobody has
    file.write_bytes(data)
    with pytest.raises(UnicodeDecodeError):
        zipfile.ZipFile(file)
    with pytest.raises(ModelError, match=r"w\.pth: is not a torch weights file, or is damaged"):
        read_weights(file)


def test_packed_weights_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1 << 20)}, tmp_path / "w.pth")
    with (
        zipfile.ZipFile(tmp_path / "w.pth") as good,
        zipfile.ZipFile(tmp_path / "bad.pth", "w", zipfile.ZIP_DEFLATED) as bad,
    ):
        for name in good.namelist():
            bad.writestr(name, good.read(name))
    read_weights(tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"bad\.pth: is packed"):
        read_weights(tmp_path / "bad.pth")


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_a_change_of_any_file_of_a_model_makes_it_another_model(folder: Path, suffix: str) -> None:
    """Also to all that is kept of it: its export, its int8 graphs, the result of tune."""
    (folder / "labels.txt").write_text("a\nb\nc\n")
    (folder / "mine.toml").write_text(CARD.format(labels='"labels.txt"'))
    external(folder, "w.data", "b.data")
    (folder / "w.data").write_bytes(np.eye(3, dtype=np.float32).tobytes())
    (folder / "b.data").write_bytes(np.arange(3, dtype=np.float32).tobytes())
    names = ["mine.toml", "labels.txt"]
    if suffix == ".onnx":
        names += ["w.data", "b.data"]
    elif suffix == ".xml":
        ov.save_model(ov.Core().read_model(folder / "mine.onnx"), folder / "mine.xml")
        names += ["mine.bin"]
    else:
        network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        program = torch.export.export(network, (torch.zeros(1, 3, 32, 32),))
        torch.export.save(program, folder / "mine.pt2")
    file = folder / f"mine{suffix}"
    before = load_model(str(file))
    identities = {(before.digest, export_key(before), result_file(before))}
    for number, name in enumerate(names, 1):
        content = (folder / name).read_bytes()
        changed = content.replace(b"\nb", b"\nB") if name == "labels.txt" else content + b"\n"
        if name.endswith((".data", ".bin")):
            changed = content[:-4] + np.float32(0.25).tobytes()
        (folder / name).write_bytes(changed)
        model = load_model(str(file))
        identities.add((model.digest, export_key(model), result_file(model)))
        assert len(identities) == number + 1, name
        assert len({part for identity in identities for part in identity}) == 3 * (number + 1)
        (folder / name).write_bytes(content)
    assert load_model(str(file)).digest == before.digest


@pytest.mark.parametrize("gone", [False, True])
def test_a_model_that_changes_after_it_was_loaded_is_not_kept_as_the_former(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    """A GPU may fail, and the graph for the CPU be made, long after."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = load_model(str(folder / "mine.onnx"))
    onnx.save(onnx_model([0, 1, 0]), str(folder / "mine.onnx"))
    if gone:
        (folder / "mine.toml").unlink()
    with pytest.raises(ModelError, match="changed while it was in use; start again"):
        exported(model)
    assert not list((tmp_path / "cache").rglob("*.onnx"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--source", "demo", "--model", "{}.onnx"),
        ("run", "--source", "demo", "--set", "model.weights={}.pth"),
        ("models", "card", "{}.onnx"),
        ("replay", "{}.mcap"),
        ("replay", "{}"),
    ],
)
def test_a_path_that_the_system_refuses_has_the_exit_code_of_its_kind(
    in_process: Run, arguments: tuple[str, ...]
) -> None:
    done = in_process(*(argument.format("x" * 300) for argument in arguments))
    assert done.returncode == 3
    assert "xxx" in done.stderr
    assert "cannot be read: File name too long" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("line", ['decoder = "\\u001b[31m\\n"', '"\\u001b[31m\\n" = 1'])
def test_a_card_writes_no_line_of_its_own_into_an_error(folder: Path, line: str) -> None:
    (folder / "mine.toml").write_text(line + CARD.format(labels='["a", "b", "c"]'))
    with pytest.raises(ModelError) as caught:
        load_model(str(folder / "mine.onnx"))
    assert not {"\x1b", "\n"} & set(str(caught.value))
