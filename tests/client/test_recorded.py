"""What is made of recordings: labels to test control code against, the report, video and datasets.
The files are small and written here, with what a real node seldom meets."""

import contextlib
import contextvars
import json
import os
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import pytest
from conftest import ROOT
from support.recordings import FILE_BYTES, SECOND_NS, START_NS, appeared, health, labels, write

from node.recording.export.media import Choice, write_coco
from node.recording.export.video import write_video
from node.recording.reader import Recording
from node.recording.report import report
from perception_client.messages.clock import virtual_ns
from perception_client.messages.kinds import (
    Box,
    Detection,
)
from perception_client.subscriber import (
    CannotSeeError,
    NodeGoneError,
    NoMessageError,
    NotUsableError,
    Status,
)
from perception_client.testing.plugin import Play
from perception_client.testing.recorded import RecordedLabels


def unwatched(labels: RecordedLabels, max_age_s: float, step_s: float) -> list[tuple[float, str]]:
    """Plays to the end; when a guard called back, and with which error."""
    called: list[tuple[float, str]] = []

    def told(error: NotUsableError) -> None:
        called.append((round(labels.now_s, 3), type(error).__name__))

    labels.on_stale(max_age_s, told)
    while labels.advance(step_s):
        pass
    return called


@pytest.mark.parametrize("step_s", [0.05, 10.0])
def test_a_guard_says_that_nothing_was_usable_from_the_start(tmp_path: Path, step_s: float) -> None:
    blind = [labels(at_s, at_s, Status.NO_CAMERA) for at_s in range(5)]
    with RecordedLabels(write(tmp_path / "blind.mcap", blind)) as played:
        assert unwatched(played, 0.2, step_s) == [(0.2, CannotSeeError.__name__)]


def test_a_guard_has_patience_with_a_node_that_starts(tmp_path: Path) -> None:
    starts = [labels(0, 0, Status.NO_CAMERA), *(labels(seq / 10, seq) for seq in range(1, 10))]
    with RecordedLabels(write(tmp_path / "starts.mcap", starts)) as played:
        assert unwatched(played, 0.2, 0.05) == []


@pytest.mark.parametrize("raised", [SystemExit(3), AssertionError("too late")])
def test_what_a_callback_raises_fails_the_test_and_every_guard_goes_on(
    tmp_path: Path, raised: BaseException
) -> None:
    calls: list[str] = []

    def note(name: str) -> None:
        calls.append(name)
        raise raised

    messages = [labels(0, 0), appeared(0.1, 0), labels(5, 1), labels(5.1, 2), health(9)]
    with RecordedLabels(write(tmp_path / "gaps.mcap", messages)) as played:
        played.on_stale(1.0, lambda _: note("first"), on_fresh=lambda _: note("fresh"))
        played.on_stale(1.0, lambda _: note("second"))
        advanced = 0
        for _ in range(20):
            with contextlib.suppress(type(raised)):
                played.advance(0.5)
                advanced += 1
        assert advanced == 20 - 3  # both guards are called in one step
        assert calls == ["first", "second", "fresh", "first", "second"]
        assert len(played.events.take()) == 1
        assert played.over


@pytest.mark.parametrize("step_s", [0.05, 30.0])
def test_a_guard_calls_back_when_it_is_time_however_far_one_advances(
    tmp_path: Path, step_s: float
) -> None:
    paused = [labels(0, 0), labels(5, 1), labels(6, 2, Status.STALLED)]
    with RecordedLabels(write(tmp_path / "paused.mcap", paused)) as played:
        called = unwatched(played, 0.5, step_s)
    assert called[:2] == [(0.5, "TooOldError"), (5.5, "TooOldError")]


def test_a_guard_says_that_the_node_is_gone_where_it_is(tmp_path: Path) -> None:
    silent = [health(0), labels(9, 0)]
    with RecordedLabels(write(tmp_path / "silent.mcap", silent)) as played:
        assert unwatched(played, 3.0, 20.0)[0] == (3.0, NodeGoneError.__name__)


def test_health_is_never_older_than_that_of_a_node_that_lives(tmp_path: Path) -> None:
    silent = [health(0), labels(9, 0), health(10)]
    with RecordedLabels(write(tmp_path / "silent.mcap", silent)) as played:
        assert played.health(0.1).published_ns == START_NS
        played.advance(5)
        with pytest.raises(NoMessageError, match=r"no health for 1 s"):
            played.health(1.0)
        assert played.health(10.0).published_ns == START_NS + 10 * SECOND_NS


def test_a_recording_that_is_cut_off_is_not_played_in_silence(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.mcap", (labels(seq / 10, seq) for seq in range(60)))
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    with pytest.warns(UserWarning, match=rf"^recording {cut} .* cut off; repair.*\Z") as caught:
        played = RecordedLabels(cut)
    assert len(caught) == 1
    with warnings.catch_warnings(), played:  # a warning is reported once
        warnings.simplefilter("error")
        assert sum(1 for _ in played) < 60
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with RecordedLabels(whole) as played:
            assert sum(1 for _ in played) == 60


def test_damage_that_is_found_while_playing_is_said(tmp_path: Path) -> None:
    """At the end, or where it is closed before."""
    damaged = write(tmp_path / "damaged.mcap", (labels(seq / 10, seq) for seq in range(60)))
    content = bytearray(damaged.read_bytes())
    content[content.index(b'"seq":25')] ^= 1
    damaged.write_bytes(content)
    with RecordedLabels(damaged) as played, pytest.warns(UserWarning, match="skipped") as caught:
        played.advance(100.0)
    assert len(caught) == 1
    left = RecordedLabels(damaged)
    with left:
        left.advance(4.0)
        with pytest.warns(UserWarning, match="skipped"):
            left.close()


async def test_an_async_test_has_virtual_time_and_its_fixture_ends_well(
    recorded_labels: Play, tmp_path: Path
) -> None:
    played = recorded_labels(write(tmp_path / "x.mcap", [labels(0, 0), labels(9, 1)]))
    played.advance(0.3)
    message = played.latest(max_age_s=1.0)
    assert message is not None
    assert message.age_s == pytest.approx(0.3)


async def test_time_is_real_again_where_it_was_closed_from_elsewhere(tmp_path: Path) -> None:
    with RecordedLabels(write(tmp_path / "x.mcap", [labels(0, 0), labels(9, 1)])) as played:
        assert virtual_ns() == START_NS
        contextvars.Context().run(played.close)
        now_ns = virtual_ns()
        assert now_ns is None or now_ns > START_NS + SECOND_NS
        assert labels(0, 0).age_s > 1e6


def test_the_report_leaves_out_no_outage_for_many_events(tmp_path: Path) -> None:
    messages = [
        labels(0, 0), *(appeared(1 + seq / 100, seq) for seq in range(300)),
        labels(8, 1, Status.NO_CAMERA), health(9, last_error="the model is gone"),
    ]  # fmt: skip
    page = report.render(Recording([write(tmp_path / "many.mcap", messages)]))
    happened = page.partition("Events and changes")[2]
    assert happened.count("cup appeared") == report.MOST_EVENTS
    for expected in ("and 100 more events", "ok → no_camera", "node running", "the model is gone"):
        assert expected in happened
    assert happened.index("and 100 more events") < happened.index("no_camera")


def test_the_report_of_a_camera_that_flaps_stays_short(tmp_path: Path) -> None:
    count = report.MOST_CHANGES + 1
    flaps = [labels(seq / 100, seq, (Status.OK, Status.STALLED)[seq % 2]) for seq in range(count)]
    flaps.append(appeared(count / 100, 0))  # at the end
    page = report.render(Recording([write(tmp_path / "flaps.mcap", flaps)]))
    happened = page.partition("Events and changes")[2]
    assert "and 1 more change from here on" in happened
    assert "cup appeared" in happened
    assert happened.count("<tr>") == report.MOST_CHANGES + 3  # the head, the rest, the event


@pytest.mark.parametrize("name", ["out.mp4", "out.avi"])
def test_a_video_on_a_full_disk_is_an_error_and_no_file(tmp_path: Path, name: str) -> None:
    recording = write(tmp_path / "noise.mcap", [], frames=20)
    whole, cut = tmp_path / f"whole_{name}", tmp_path / name
    assert write_video(Recording([recording]), whole, None) == 20
    assert whole.stat().st_size > 2 * FILE_BYTES
    capture = cv2.VideoCapture(str(whole))
    assert sum(1 for _ in iter(capture.grab, False)) == 20

    done = subprocess.run(
        [sys.executable, "-m", "node", "export", "video", recording, cut],
        capture_output=True, text=True, timeout=60, cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES)),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert f"{cut} cannot be written" in done.stderr
    assert "File too large; make room" in done.stderr
    assert "Traceback" not in done.stderr
    assert not cut.exists()


def test_a_dataset_of_two_models_confuses_no_classes(tmp_path: Path) -> None:
    box = Box(50.0, 50.0, 20.0, 20.0)
    person, espresso = Detection(0, "person", 0.9, box), Detection(0, "espresso", 0.9, box)
    cup, dog = Detection(41, "cup", 0.9, box), Detection(1, "dog", 0.9, box)
    seen = [(person, cup), (person,), (espresso, dog), (espresso,)]
    messages = [
        labels(seq / 10 + 0.01, seq, Status.OK, *detections) for seq, detections in enumerate(seen)
    ]
    recording = Recording([write(tmp_path / "two.mcap", messages, frames=4)])
    assert write_coco(recording, tmp_path / "coco", Choice()) == 4
    content = json.loads((tmp_path / "coco" / "annotations.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert names == {1: "person", 2: "dog", 42: "cup", 43: "espresso"}
    assert [names[annotation["category_id"]] for annotation in content["annotations"]] == [
        detection.name for detections in seen for detection in detections
    ]
    assert [annotation["image_id"] for annotation in content["annotations"]] == [1, 1, 2, 3, 3, 4]
