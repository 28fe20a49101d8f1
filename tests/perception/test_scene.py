"""What is remembered between frames: tracks, stable labels, and the events that they make."""

import math
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import pytest

from node.config.schema import CameraConfig, NodeConfig, RegionConfig
from node.image.frame import Frame, Stamp
from node.perception.tasks.base import Prediction
from node.perception.tasks.region import RegionOfInterest, contains
from node.perception.temporal.scene import Scene, TrackedPrediction
from perception_client.messages.calibration import Calibration
from perception_client.messages.kinds import Box, Detection, Label, SceneEvent

DOCK = RegionConfig(name="dock", polygon=((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)))
IMAGE = np.zeros((100, 200, 3), np.uint8)


def frame(at_s: float, epoch: int = 0) -> Frame:
    ns = round(at_s * 1e9)
    return Frame(IMAGE, "front", 0, Stamp(ns, ns, "host"), None, 0, epoch=epoch)


def thing(x: float, name: str = "cup", score: float = 0.9) -> Detection:
    return Detection(id=len(name), name=name, score=score, box=Box(cx=x, cy=50, w=30, h=40))


def scene(regions: Sequence[RegionConfig] = (), **sections: dict) -> Scene:
    config = NodeConfig.model_validate(sections)
    camera = CameraConfig(name="front", regions=tuple(regions))
    return Scene(camera, config, ("nothing", "cat", "dog"))


def watched(scene: Scene, times: Iterable[float], speed: float = 20.0) -> list[TrackedPrediction]:
    """A thing that moves to the right, from x = 20 at 0 s on."""
    return [
        scene.observe(frame(at_s), Prediction(detections=(thing(20 + speed * at_s),)))
        for at_s in times
    ]


def happened(seen: Iterable[TrackedPrediction]) -> list[SceneEvent]:
    return [event for observed in seen for event in observed.events]


TRACK = {"enabled": True, "lost_s": 1.0, "min_hits": 2}


@pytest.mark.parametrize(
    "times",
    [
        np.arange(0, 3, 1 / 30),
        np.arange(0, 3, 1 / 10),
        np.cumsum(np.random.default_rng(0).uniform(0.01, 0.2, 30)),
        [0, 0.1, 0.2, 0.9, 1.0, 1.1, 1.9, 2.0],
    ],
    ids=["30 fps", "10 fps", "uneven", "missed"],
)
def test_a_thing_keeps_its_number_at_any_frame_times(times: Sequence[float]) -> None:
    seen = watched(scene(track=TRACK), times)
    assert {item.track for observed in seen[1:] for item in observed.seen.detections} == {1}
    (came,) = happened(seen)
    assert (came.kind, came.name, came.track) == ("appeared", "cup", 1)


def test_a_track_is_remembered_for_seconds_not_for_frames() -> None:
    for step_s in (1 / 30, 1 / 5):
        front = scene(track=TRACK)
        watched(front, (0.0, 0.1, 0.2), speed=0)
        hidden = [front.observe(frame(at_s), Prediction()) for at_s in np.arange(0.3, 1.0, step_s)]
        assert happened(hidden) == [], "it only hides"
        (again,) = watched(front, (1.1,), speed=0)
        assert again.seen.detections[0].track == 1
        gone = happened(
            front.observe(frame(at_s), Prediction()) for at_s in np.arange(1.2, 3.0, step_s)
        )
        assert [(event.kind, event.track, event.reset) for event in gone] == [("left", 1, False)]
        assert gone[0].duration_ns == pytest.approx(1.0e9, abs=1e6)
        assert gone[0].since_ns == pytest.approx(0.1e9, abs=1e6)


@pytest.mark.parametrize("step_s", [-86_400.0, 3600.0])
@pytest.mark.parametrize("live", [True, False])
def test_a_clock_that_is_set_changes_no_track_and_no_duration(step_s: float, live: bool) -> None:
    """In a live run and in the replay of its recording, whose stamps are those of that time."""
    front = scene(track=TRACK)
    times = np.arange(0, 3, 0.1)
    seen = []
    for time_s in times:
        ns, set_ns = round(time_s * 1e9), round((time_s + (step_s if time_s > 1 else 1e5)) * 1e9)
        stamp = Stamp(set_ns, ns, "host") if live else Stamp(set_ns, None, "media")
        frame = Frame(IMAGE, "front", 0, stamp, None if live else ns, 0)
        detections = (thing(20 + 20 * time_s),) if time_s < 1.55 else ()
        seen.append(front.observe(frame, Prediction(detections=detections)))
    assert {item.track for observed in seen[1:] for item in observed.seen.detections} == {1}
    came, left = happened(seen)
    assert (came.kind, left.kind) == ("appeared", "left")
    assert left.duration_ns == pytest.approx(1.4e9, abs=2e8)


def test_a_source_that_begins_anew_shows_other_things() -> None:
    front = scene(track=TRACK)
    watched(front, (0.0, 0.1), speed=0)
    seen = [
        front.observe(frame(at_s, epoch=1), Prediction(detections=(thing(20),)))
        for at_s in (0.05, 0.15)
    ]
    assert [(event.kind, event.track, event.reset) for event in happened(seen)] == [
        ("left", 1, True),
        ("appeared", 2, False),
    ]


def test_another_class_of_the_same_track_is_a_change() -> None:
    front = scene(track={**TRACK, "per_class": False})
    watched(front, (0.0, 0.1), speed=0)
    seen = front.observe(frame(0.2), Prediction(detections=(thing(20, "bowl"),)))
    (changed,) = seen.events
    assert (changed.kind, changed.previous, changed.name, changed.track) == (
        "changed", "cup", "bowl", 1,
    )  # fmt: skip


def test_a_number_does_not_go_over_to_a_thing_of_another_class() -> None:
    front = scene(track=TRACK)
    watched(front, (0.0, 0.1), speed=0)
    seen = [
        front.observe(frame(at_s), Prediction(detections=(thing(20, "bowl"),)))
        for at_s in (0.2, 0.3)
    ]
    assert [item.track for observed in seen for item in observed.seen.detections] == [None, 2]


def test_regions_are_entered_and_left_once_each() -> None:
    front = scene([DOCK], track=TRACK)
    there = watched(front, np.arange(0, 8, 0.1))
    back = [
        front.observe(frame(8 + at_s), Prediction(detections=(thing(180 - 20 * at_s),)))
        for at_s in np.arange(0, 8, 0.1)
    ]
    gone = [front.observe(frame(16 + at_s), Prediction()) for at_s in np.arange(0, 2, 0.1)]
    events = happened([*there, *back, *gone])
    assert [(event.kind, event.region) for event in events] == [
        ("appeared", None),
        ("region_entered", "dock"),
        ("region_left", "dock"),
        ("left", None),
    ]
    assert events[2].duration_ns == pytest.approx(8e9, rel=0.05)
    assert events[1].key == events[2].key != events[0].key == events[3].key


def test_a_thing_that_goes_inside_a_region_leaves_the_region_first() -> None:
    front = scene([DOCK], track=TRACK)
    for at_s in (0.0, 0.1):
        front.observe(frame(at_s), Prediction(detections=(thing(150),)))
    events = happened(front.observe(frame(at_s), Prediction()) for at_s in (0.2, 1.5))
    assert [event.kind for event in events] == ["region_left", "left"]


SMOOTH = {"time_constant_s": 0.5, "enter": 0.5, "leave": 0.3}


def labelled(cat: float) -> Prediction:
    scores = np.array([(1 - cat) / 2, cat, (1 - cat) / 2])
    best = int(scores.argmax())
    return Prediction(
        labels=(Label(best, ("nothing", "cat", "dog")[best], scores[best]),), scores=scores
    )


@pytest.mark.parametrize("fps", [5, 30, 100])
def test_a_label_is_stable_after_the_stated_time_at_any_frame_rate(fps: int) -> None:
    front = scene(smooth=SMOOTH)
    front.observe(frame(0), labelled(0.0))
    entered = next(
        at_s for at_s in np.arange(1 / fps, 3, 1 / fps)
        if any(label.stable for label in front.observe(frame(at_s), labelled(0.9)).seen.labels)
    )  # fmt: skip
    assert entered == pytest.approx(0.5 * math.log(0.9 / (0.9 - 0.5)), abs=1.01 / fps)


def test_raw_and_stable_labels_stand_side_by_side() -> None:
    front = scene(smooth=SMOOTH)
    for at_s in np.arange(0, 2, 0.1):
        front.observe(frame(at_s), labelled(0.9))
    seen = front.observe(frame(2.0), labelled(0.1))
    raw, stable = seen.seen.labels
    assert (raw.name, raw.stable, raw.since_ns) == ("nothing", False, None)
    assert (stable.name, stable.stable) == ("cat", True)
    assert stable.score == pytest.approx(0.1)
    assert stable.since_ns == pytest.approx(0.5e9, abs=0.15e9)


def test_a_flickering_label_neither_comes_nor_goes() -> None:
    front = scene(smooth=SMOOTH)
    steady = [front.observe(frame(at_s), labelled(0.9)) for at_s in np.arange(0, 2, 0.1)]
    assert [event.kind for event in happened(steady)] == ["appeared"]
    flickering = [
        front.observe(frame(2 + at_s), labelled(0.9 if i % 2 else 0.0))
        for i, at_s in enumerate(np.arange(0, 5, 0.1))
    ]
    assert happened(flickering) == []
    gone = happened(front.observe(frame(7 + at_s), labelled(0.0)) for at_s in np.arange(0, 2, 0.1))
    assert [(event.kind, event.name) for event in gone] == [("left", "cat")]


def test_a_photograph_has_no_past() -> None:
    front = scene(smooth=SMOOTH)
    photo = Frame(IMAGE, "front", 0, None, None, 0)
    assert front.observe(photo, labelled(0.9)).seen.labels[0].stable is None


def test_points_are_inside_by_the_even_odd_rule() -> None:
    arrow = ((0.0, 0.0), (1.0, 0.5), (0.0, 1.0), (0.4, 0.5))
    assert contains(arrow, 0.7, 0.5)
    assert contains(arrow, 0.2, 0.2)
    assert not contains(arrow, 0.2, 0.5)
    assert not contains(arrow, 0.9, 0.1)


@pytest.mark.parametrize("crop", [True, False])
def test_a_region_of_interest_shows_its_part_only_and_boxes_stay_in_the_frame(crop: bool) -> None:
    picture = np.random.default_rng(0).integers(1, 255, (100, 200, 3), np.uint8)
    region = RegionOfInterest(((0.5, 0.0), (1.0, 0.0), (1.0, 0.5)), crop=crop)
    shown = region.cut(picture)
    assert shown.shape[:2] == ((50, 100) if crop else (100, 200))
    inside = shown[5, -5] if crop else shown[5, 195]
    np.testing.assert_array_equal(inside, picture[5, 195])
    assert not shown[40, 10].any()
    (detection,) = region.placed(Prediction(detections=(thing(20),))).detections
    assert detection.box.cx == (120 if crop else 20)


@pytest.mark.parametrize("distortion", [(), (0.1, -0.05, 0.001, 0.002), (-0.3, 0.1, 0, 0, 0.02)])
def test_bearings_are_those_of_opencv(distortion: tuple[float, ...]) -> None:
    calibration = Calibration("front", 1280, 720, 900, 910, 630, 350, distortion)
    matrix = np.array([[900, 0, 630], [0, 910, 350], [0, 0, 1.0]])
    for x, y in ((630, 350), (100, 100), (1200, 650), (640, 20)):
        undistorted = cv2.undistortImagePoints(
            np.array([[[x, y]]], float), matrix, np.array(distortion or (0.0,) * 4),
            arg1=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-12),
        )  # fmt: skip
        u, v = (undistorted[0, 0] - (630, 350)) / (900, 910)
        bearing = calibration.bearing(x / 2, y / 2, 640, 360)
        assert math.tan(bearing.azimuth_rad) == pytest.approx(u, abs=1e-5)
        assert -math.tan(bearing.elevation_rad) * math.hypot(u, 1) == pytest.approx(v, abs=1e-5)


def test_a_region_too_small_to_see_anything_in_is_said_once_a_size(
    caplog: pytest.LogCaptureFixture,
) -> None:
    region = RegionOfInterest(((0.5, 0.5), (0.51, 0.5), (0.51, 0.51)), crop=True, camera="front")
    for height in (48, 48, 2000):
        region.cut(np.zeros((height, 4 * height // 3, 3), np.uint8))
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "camera 'front': roi is 1 x 1 pixels of a picture of 64 x 48" in messages[0]
