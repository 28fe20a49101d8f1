"""Model files with odd outputs or labels: one line at the start, or a frame lost for a reason;
never a name or a score that the model did not give."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Run
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from test_decoders import CLASSES, INPUT_PX, SPEC, of_end_to_end
from test_detector_files import FILES, constant_graph, made, perceived, rows, written

from node.config.schema import DetectConfig
from node.errors import FrameError, ModelError
from node.perception.models.registry import load_model
from node.perception.tasks.decoders.registry import DECODERS
from node.perception.tasks.detect import Detect

BOXES: dict[str, NDArray[np.generic]] = {
    "boxes": rows(4, 9, (20, 15, 40, 25), (0, 0, 64, 64)),
    "scores": rows(1, 9, (0.9,), (0.4,))[..., 0],
    "classes": rows(1, 9, (1,), (0,))[..., 0],
}


def of_a_classifier(folder: Path, model: onnx.ModelProto) -> Path:
    file = written(folder, model, "boxes")
    card = file.with_suffix(".toml")
    text = card.read_text().replace('"detect"\ndecoder = "boxes"', '"classify"')
    card.write_text(text)
    return file


@pytest.mark.parametrize("shape", [(), (0,)])
def test_an_output_without_the_batch_is_one_line_at_the_start(
    tmp_path: Path, in_process: Run, shape: tuple[int, ...]
) -> None:
    outputs = FILES["ssd"][1] | {"detection_scores": np.zeros(shape, np.float32)}
    file = written(tmp_path, constant_graph(outputs), "ssd")
    done = in_process("run", "--source", "demo", "--model", file, "--max-frames", "1")
    assert done.returncode == 3
    *_, error = done.stderr.splitlines()
    assert f"error: model '{file}': model output: [" in error
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("part", ["scores", "classes"])
def test_what_is_no_score_and_no_class_costs_the_frame(tmp_path: Path, part: str) -> None:
    odd = rows(1, 9, (3.5,), (0.4,))[..., 0] if part == "scores" else BOXES[part] + np.float32(0.4)
    file = written(tmp_path, constant_graph(BOXES | {part: odd}), "boxes")
    with pytest.raises(ModelError, match=r"scores from .* to 3\.5|class ids that are no whole"):
        perceived(file, "openvino")


@pytest.mark.parametrize("column", [4, 6])
def test_yolox_scores_before_the_sigmoid_are_no_scores(column: int) -> None:
    raw = np.full((1, 6300, 5 + CLASSES), 0.5, np.float32)
    raw[0, 7, column] = 3.5
    with pytest.raises(FrameError, match=r"to 3\.5, and decoder .* from 0 to 1"):
        DECODERS["yolox"].decode((raw,), 0, 0.4, CLASSES, INPUT_PX)


@pytest.mark.parametrize("box", [(1700, 20, 1750, 90), (1e38, 0, 3e38, 9), (-900, 0, -700, 9)])
def test_an_object_far_outside_of_the_picture_is_not_nothing_seen(box: tuple[float, ...]) -> None:
    """As of a file whose boxes are in pixels of another picture."""
    task = Detect(("a", "b", "c"), "end_to_end", SPEC, DetectConfig())
    (outputs,) = of_end_to_end(np.random.default_rng(1), 9)
    outputs[0, 3] = (*box, 0.9, 1)
    with pytest.raises(FrameError, match=r"outside of the network's input of 640 x 480 px"):
        task.read((outputs,), 0, (240, 320))


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64])
@pytest.mark.parametrize("form", ["classify", "end_to_end", "ssd", "D-FINE", "boxes"])
def test_scores_of_whole_numbers_are_refused(tmp_path: Path, form: str, kind: type) -> None:
    """As a quantised graph gives them; each would count as 0 or 1."""
    if form == "classify":
        file = of_a_classifier(tmp_path, constant_graph({"logits": np.array([[90, 3]], kind)}))
    else:
        decoder, outputs = FILES.get(form, ("boxes", BOXES))
        name = next(name for name in outputs if name in ("output0", "logits") or "score" in name)
        changed = {**outputs, name: outputs[name].astype(kind)}
        file = written(tmp_path, constant_graph(changed), decoder)
    with pytest.raises(ModelError, match=r"in u?int\d+, and scores are no whole numbers; export"):
        load_model(str(file))


@pytest.mark.parametrize("last", ["Softmax", "Reshape", "Cast", "Sigmoid"])
def test_a_classifier_with_its_softmax_is_refused(tmp_path: Path, last: str) -> None:
    """A second softmax would give every class nearly the same score."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["logits"]),
        helper.make_node("Sigmoid" if last == "Sigmoid" else "Softmax", ["logits"], ["scores"]),
        helper.make_node("Reshape", ["scores", "shape"], ["formed"])
        if last == "Reshape"
        else helper.make_node("Cast", ["scores"], ["formed"], to=TensorProto.FLOAT16),
    ]
    result = "formed" if last in ("Reshape", "Cast") else "scores"
    kind = TensorProto.FLOAT16 if last == "Cast" else TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info(result, kind, [1, 2])],
        [numpy_helper.from_array(np.ones((3, 2), np.float32), "weights"),
         numpy_helper.from_array(np.array([1, 2]), "shape")],
    )  # fmt: skip
    file = of_a_classifier(tmp_path, made(graph))
    if last == "Sigmoid":
        assert load_model(str(file)).task == "classify"
    else:
        with pytest.raises(ModelError, match=r"gives scores, and .* without its last softmax"):
            load_model(str(file))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "there is no name"),
        ("\n\n", "there is no name"),
        ("cat\n\ndog\n", "name 1 is blank, counted from 0"),
        ("cat\n \n", None),
        ("cat\ndog\n\n\n", None),
        ("cat\u2028x\ndog\n", r"'cat\\u2028x' is no name"),
        ("cat\fx\ndog\n", r"'cat\\x0cx' is no name"),
        ("cat\x85x\ndog\n", r"'cat\\x85x' is no name"),
    ],
)
def test_no_line_of_the_labels_moves_the_names_behind_it(
    tmp_path: Path, content: str, reason: str | None
) -> None:
    file = written(tmp_path, constant_graph(BOXES), "boxes")
    card = file.with_suffix(".toml")
    card.write_text(card.read_text().replace("['cat', 'dog']", '"labels.txt"'))
    (tmp_path / "labels.txt").write_text(content)
    if reason is None:
        assert load_model(str(file)).label_names == tuple(content.split())
        return
    with pytest.raises(ModelError, match=reason):
        load_model(str(file))


def test_an_empty_list_of_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="labels: there is no name"):
        load_model(str(written(tmp_path, constant_graph(BOXES), "boxes", ())))
