"""The regression gate: nothing that changed is called the same."""

import dataclasses
import json
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import Run, Start, stop
from hypothesis import given
from hypothesis import strategies as st

from node.errors import ConfigError
from node.replay.golden import Comparison, Verdict, read_golden
from perception_client.messages.codec import to_map
from perception_client.messages.kinds import (
    Area,
    Box,
    Detection,
    Label,
    LabelsMessage,
    Mask,
    ModelInfo,
    Status,
)
from perception_client.subscriber import Subscriber

TOLERANCE = 0.005


def message(number: int = 0, **seen: object) -> dict[str, object]:
    """One message of a replay, as JSON."""
    made = LabelsMessage(
        node="robot", camera="front", session="5e55", seq=number, status=Status.OK,
        frame_id=number, stamp_ns=number, clock="media", published_ns=1, published_mono_ns=1,
    )  # fmt: skip
    return json.loads(json.dumps(to_map(dataclasses.replace(made, **seen))))


def labels(*scores: tuple[str, float]) -> tuple[Label, ...]:
    return tuple(Label(ord(name), name, score) for name, score in scores)


def compared(
    expected: Sequence[dict[str, object]], got: Sequence[dict[str, object]], tolerance: float
) -> Verdict:
    comparison = Comparison(list(expected), tolerance)
    for message in got:
        comparison.add(message)
    return comparison.verdict()


def kinds(expected: dict[str, object], got: dict[str, object], tolerance: float) -> list[str]:
    return [difference.kind for difference in compared([expected], [got], tolerance).differences]


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ([("a", 0.9)], [("b", 0.9)], ["vanished", "appeared"]),
        ([("a", 0.9)], [], ["vanished"]),
        ([], [("a", 0.9)], ["appeared"]),
        ([("a", 0.9), ("b", 0.3)], [("a", 0.9)], ["vanished"]),
        ([("a", 0.9), ("b", 0.3)], [("a", 0.9), ("c", 0.1)], ["vanished"]),
        # The last of so many changed places with the first that had no place.
        ([("a", 0.9), ("b", 0.051)], [("a", 0.9), ("c", 0.052)], []),
        ([("a", 0.9), ("b", 0.3)], [("a", 0.903), ("b", 0.296)], []),
    ],
)
def test_a_label_is_missed_but_where_the_list_may_have_ended_before_it(
    before: list[tuple[str, float]], now: list[tuple[str, float]], expected: list[str]
) -> None:
    old, new = message(labels=labels(*before)), message(labels=labels(*now))
    assert kinds(old, new, TOLERANCE) == expected


def test_a_stable_label_is_missed_and_those_beside_the_best_excuse_no_others() -> None:
    a, b, c = labels(("a", 0.9), ("b", 0.301), ("c", 0.3))
    steady = dataclasses.replace(b, stable=True, since_ns=1)
    lost = kinds(message(labels=(a, steady)), message(labels=(a, c)), TOLERANCE)
    assert lost == ["vanished"]
    beside = dataclasses.replace(steady, score=0.299)
    assert not kinds(message(labels=(a, steady)), message(labels=(a, c, beside)), TOLERANCE)
    assert not kinds(message(labels=(a, c, beside)), message(labels=(a, steady)), TOLERANCE)


def mask(counts: tuple[int, ...], box: Box | None = None) -> Mask:
    return Mask(1, "cat", 10, 10, box or Box(50, 50, 100, 100), counts)


LEFT, RIGHT = mask((0, 50, 50)), mask((50, 50))


def test_masks_are_compared_by_their_overlap() -> None:
    def both(old: tuple[Mask, ...], new: tuple[Mask, ...]) -> list[str]:
        return kinds(message(masks=old), message(masks=new), TOLERANCE)

    assert both((LEFT,), (RIGHT,)) == ["mask"]
    assert both((LEFT,), ()) == ["vanished"]
    assert both((), (LEFT,)) == ["appeared"]
    assert both((LEFT,), (mask((0, 49, 51)),)) == []  # a cell
    assert both((LEFT,), (mask((0, 50, 50), Box(50, 50, 100.05, 100)),)) == []
    assert both((LEFT,), (mask((0, 50, 50), Box(60, 50, 100, 100)),)) == ["mask"]
    assert both((mask((0, 1, 99)),), (mask((99, 1)),)) == ["mask"]  # small, and elsewhere


@pytest.mark.parametrize(("key", "value"), [("frame_id", [1]), ("seq", {"a": 1})])
def test_a_line_by_which_no_message_is_found_is_said(
    tmp_path: Path, key: str, value: object
) -> None:
    file = tmp_path / "golden.jsonl"
    file.write_text(
        "\n".join(json.dumps(content) for content in (message(0), {**message(1), key: value}))
    )
    with pytest.raises(ConfigError, match=f"golden.jsonl, line 2: {key} is .*, not a number"):
        read_golden(file)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "holds no messages"),
        ('{"schema": 1}\n', "line 1 is no message of labels: it names no camera"),
        ("[]\n", "line 1 is not a JSON object"),
    ],
)
def test_a_file_without_messages_of_labels_is_refused(
    tmp_path: Path, content: str, problem: str
) -> None:
    file = tmp_path / "golden.jsonl"
    file.write_text(content)
    with pytest.raises(ConfigError, match=problem) as caught:
        read_golden(file)
    assert caught.value.fix


def test_a_difference_shows_the_changed_key_and_the_digits_that_differ() -> None:
    model = ModelInfo("mine", "classify", "openvino", "fp32", "cpu", "5e55")
    old = message(model=model, labels=labels(("a", 0.9702761)))
    new = message(
        model=dataclasses.replace(model, runtime="onnxruntime"), labels=labels(("a", 0.9702762))
    )
    assert [
        (difference.what, difference.expected, difference.got)
        for difference in compared([old], [new], 0.0).differences
    ] == [
        ("model.runtime", '"openvino"', '"onnxruntime"'),
        ("a", "0.9702761", "0.9702762"),
    ]


@pytest.mark.parametrize(
    "broken", [mask((0, 50, 20)), mask((0, 120, -20)), mask((0, 50, 50), Box(5, 5, 0, 0))]
)
def test_a_mask_that_is_not_whole_is_said(broken: Mask) -> None:
    with pytest.raises(ConfigError, match="line 1 of the expected messages: the mask of 'cat'"):
        kinds(message(masks=(broken,)), message(masks=(LEFT,)), TOLERANCE)


A, B = Detection(1, "a", 0.5, Box(10, 10, 5, 5)), Detection(2, "b", 0.5, Box(50, 50, 5, 5))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"detections": (A, B)}, {"detections": (B, A)}),
        ({"labels": labels(("a", 0.5), ("b", 0.5))}, {"labels": labels(("b", 0.5), ("a", 0.5))}),
        ({"masks": (LEFT, RIGHT)}, {"masks": (RIGHT, LEFT)}),
        ({"areas": (Area(1, "a", 0.5),)}, {"areas": (Area(1, "a", 0.5000000001),)}),
    ],
)
def test_without_a_tolerance_all_is_the_same_to_the_last_bit(
    old: dict[str, object], new: dict[str, object]
) -> None:
    assert kinds(message(**old), message(**new), 0.0)
    assert not kinds(message(**old), message(**old), 0.0)
    assert not kinds(message(**old), message(**new), TOLERANCE)


def test_what_has_a_name_hides_nothing_that_has_none() -> None:
    old = message(labels=labels(("a", 0.5)), detections=(A, B))
    new = message(labels=labels(("a", 0.6)), detections=(B, A))
    assert [difference.what for difference in compared([old], [new], 0.0).differences] == [
        "a",
        "detections",
    ]


@given(st.floats(1, 1000), st.floats(1, 1000), st.floats(1, 500), st.floats(1e-12, 1e-9))
def test_a_last_bit_of_a_box_is_a_difference(x: float, y: float, w: float, bit: float) -> None:
    old = dataclasses.replace(A, box=Box(x, y, w, w))
    new = dataclasses.replace(A, box=Box(x * (1 + bit), y, w, w))
    assert kinds(message(detections=(old,)), message(detections=(new,)), 0.0) == ["box"]


def test_a_frame_that_came_twice_is_compared_twice() -> None:
    first, again = message(labels=labels(("a", 0.9))), message(labels=labels(("b", 0.9)))
    assert compared([first, again], [first, again], 0.0).same
    assert not compared([first, again], [again, again], 0.0).same
    assert [
        difference.kind for difference in compared([first, again], [first], 0.0).differences
    ] == ["frame missing"]


def test_a_gate_that_was_stopped_has_not_passed(
    start_node: Start, clip: Path, tiny_model: Path, tmp_path: Path, ipc: str
) -> None:
    golden = tmp_path / "golden.jsonl"
    golden.write_text("".join(json.dumps(message(number)) + "\n" for number in range(40)))
    slow = ("--speed", "0.01", "--expect", golden, "--endpoint", ipc, "--wait-for-subscriber")
    node = start_node("replay", clip, "--model", tiny_model, *slow)
    with Subscriber(ipc) as subscriber:
        subscriber.receive(60)
        code, _ = stop(node)
    assert code == 1
    assert node.stderr is not None
    assert "of 40 messages: not compared to the end" in node.stderr.read()


def test_a_video_that_is_cut_off_passes_no_gate(
    in_process: Run, clip: Path, tiny_model: Path, tmp_path: Path
) -> None:
    content = clip.read_bytes()
    cut = tmp_path / f"cut{clip.suffix}"
    cut.write_bytes(content[: len(content) * 2 // 3])
    golden = tmp_path / "golden.jsonl"
    replay = ("replay", cut, "--model", tiny_model, "--speed", "max")
    done = in_process(*replay, "--jsonl", golden)
    assert (done.returncode, bool(golden.read_text())) == (3, True)
    done = in_process(*replay, "--expect", golden)
    assert done.returncode == 3
    assert "the same as expected" in done.stdout
    assert "it is cut off" in done.stderr


@pytest.mark.parametrize("moment", ["read_golden", "print_verdict"])
def test_a_signal_before_or_after_the_replay_is_no_pass(
    in_process: Run, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    golden = tmp_path / "golden.jsonl"
    golden.write_text(json.dumps(message()) + "\n")

    def signalled(*_: object, **__: object) -> None:
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL, "it would end the tests"
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(f"node.cli.replay.{moment}", signalled)
    done = in_process("replay", clip, "--speed", "max", "--to", 0.1, "--expect", golden)
    assert done.returncode == 1
    assert f"error: stopped before the comparison with {golden}" in done.stderr
