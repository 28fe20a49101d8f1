"""Tags in rendered pictures: numbers, corners and poses, compared with those that they were
rendered from; and photographs without tags."""

import cv2
import numpy as np
import pytest
import skimage.data
from support.tags import (
    CALIBRATION,
    FACING,
    SIZE_M,
    added,
    background,
    photographed,
    projected,
    square,
    turned,
)

from node.config.schema import CameraConfig, DetectConfig, ModelConfig, NodeConfig
from node.errors import ModelError
from node.image.frame import Frame, Image, Stamp
from node.perception.classical.tag_detector import TagFamily
from node.perception.classical.tag_pose import tag_poses
from node.perception.classical.tags import NAMES
from node.perception.models.registry import check_name, entries, fetch, load_model
from node.perception.perceiver import Perceiver, build_perceiver
from node.perception.temporal.scene import Scene
from perception_client.messages.kinds import Box, Detection, Pose

APRILTAG = "DICT_APRILTAG_36h11"
CAMERA = CameraConfig(name="front", calibration=CALIBRATION)
SIZED = DetectConfig(tag_size_m=SIZE_M)


@pytest.fixture(scope="module")
def perceiver() -> Perceiver:
    return build_perceiver(ModelConfig(name="apriltag36h11"), detect=SIZED)


def with_poses(
    perceiver: Perceiver, image: Image, camera: CameraConfig = CAMERA
) -> tuple[Detection, ...]:
    """What a frame of the camera shows."""
    config = NodeConfig(camera=(camera,), detect=SIZED)
    frame = Frame(image, camera.name, 0, Stamp(1, 1, "host"), None, 0)
    scene = Scene(camera, config, perceiver.names)
    return scene.observe(frame, perceiver.perceive(scene.cut(image)).seen).seen.detections


def matrix_of(pose: Pose) -> np.ndarray:
    x, y, z, w = pose.rotation
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def degrees_between(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.degrees(np.linalg.norm(cv2.Rodrigues(first.T @ second)[0])))


@pytest.mark.parametrize("sizes", [3, 10, 20, 30])
@pytest.mark.parametrize(("blur", "noise"), [(0.5, 2.0), (1.2, 6.0)], ids=["sharp", "poor"])
def test_a_tag_is_where_it_was_rendered(
    perceiver: Perceiver, sizes: int, blur: float, noise: float
) -> None:
    random = np.random.default_rng(sizes)
    for tag in random.integers(0, 587, 3).tolist():
        distance = sizes * SIZE_M
        rotation = turned(*random.uniform(-0.7, 0.7, 2), random.uniform(-3, 3))
        shift = distance * np.array([random.uniform(-0.35, 0.35), random.uniform(-0.1, 0.1), 1.0])
        picture = background()
        added(picture, APRILTAG, tag, rotation, shift)
        (seen,) = with_poses(perceiver, photographed(picture, blur=blur, noise=noise, seed=tag))
        assert (seen.id, seen.name) == (tag, f"apriltag36h11:{tag}")
        truth = projected(square(SIZE_M), rotation, shift)
        assert np.abs(np.array(seen.corners) - truth).max() < (0.15 if noise < 3 else 0.5)
        assert seen.pose is not None
        off_m = np.linalg.norm(np.array(seen.pose.translation_m) - shift)
        assert off_m < (0.005 if noise < 3 else 0.02) * np.linalg.norm(shift)
        assert seen.pose.reprojection_error_px < 0.5
        assert 0 <= seen.pose.ambiguity <= 1
        if seen.pose.ambiguity < 0.2:
            assert degrees_between(matrix_of(seen.pose), rotation) < 3
        box = seen.box
        assert box.cx - box.w / 2 == pytest.approx(min(x for x, _ in seen.corners), abs=1e-3)


def test_a_small_tag_that_faces_the_camera_is_ambiguous(perceiver: Perceiver) -> None:
    picture = background()
    shift = np.array([0.0, 0.0, 25 * SIZE_M])
    added(picture, APRILTAG, 5, turned(0.1, 0.0, 0.0), shift)
    far = with_poses(perceiver, photographed(picture, blur=1.0, noise=3))[0].pose
    picture = background()
    added(picture, APRILTAG, 5, turned(0.7, 0.0, 0.0), shift / 8)
    near = with_poses(perceiver, photographed(picture, blur=1.0, noise=3))[0].pose
    assert far is not None
    assert near is not None
    assert near.ambiguity < 0.1 < 0.3 < far.ambiguity <= 1


def test_two_tags_of_one_number_are_two_detections(perceiver: Perceiver) -> None:
    picture = background()
    for x in (-0.4, 0.4):
        added(picture, APRILTAG, 7, FACING, np.array([x, 0.0, 1.6]))
    added(picture, APRILTAG, 8, FACING, np.array([0.0, 0.3, 1.6]))
    seen = with_poses(perceiver, photographed(picture, blur=0.6, noise=2))
    assert sorted(item.id for item in seen) == [7, 7, 8]
    sevens = sorted(item.pose.translation_m[0] for item in seen if item.pose and item.id == 7)
    assert sevens == pytest.approx([-0.4, 0.4], abs=0.01)


@pytest.mark.parametrize(
    ("name", "dictionary"),
    [
        ("apriltag16h5", "DICT_APRILTAG_16h5"), ("apriltag25h9", "DICT_APRILTAG_25h9"),
        ("apriltag36h10", "DICT_APRILTAG_36h10"), ("aruco4x4_50", "DICT_4X4_50"),
        ("aruco7x7_1000", "DICT_7X7_1000"), ("aruco_original", "DICT_ARUCO_ORIGINAL"),
        ("aruco_mip_36h12", "DICT_ARUCO_MIP_36h12"),
    ],
)  # fmt: skip
def test_each_family_finds_its_own_tags(name: str, dictionary: str) -> None:
    picture = background()
    added(picture, dictionary, 17, turned(0.3, -0.3, 0.4), np.array([0.05, -0.1, 1.2]))
    image = photographed(picture, blur=0.7, noise=3)
    (seen,) = build_perceiver(ModelConfig(name=name)).perceive(image).detections
    truth = projected(square(SIZE_M), turned(0.3, -0.3, 0.4), np.array([0.05, -0.1, 1.2]))
    assert seen.name == f"{name}:17"
    assert np.abs(np.array(seen.corners) - truth).max() < 0.2, "the first is the top left"
    assert seen.score > 0.9
    assert seen.pose is None, "no calibration"


def test_an_apriltag_is_upright_as_the_apriltag_library_prints_it() -> None:
    """Tag 0 of 36h11 by AprilTag's own generator, whatever OpenCV's tables hold."""
    rows = ("110101", "011101", "011000", "101000", "010110", "000100")
    bits = np.pad(np.array([[int(bit) for bit in row] for row in rows], np.uint8) * 255, 1)
    image = np.pad(np.kron(bits, np.ones((16, 16), np.uint8)), 60, constant_values=255)
    found = build_perceiver(ModelConfig(name="apriltag36h11")).perceive(np.dstack([image] * 3))
    (seen,) = found.detections
    low, high = 59.5, 60 + 8 * 16 - 0.5
    assert seen.id == 0
    assert np.array(seen.corners) == pytest.approx(
        np.array([[low, low], [high, low], [high, high], [low, high]]), abs=0.05
    )


@pytest.mark.parametrize("name", ["apriltag36h11", "aruco4x4_50", "aruco_original"])
def test_photographs_without_tags_show_none(name: str) -> None:
    perceiver = build_perceiver(ModelConfig(name=name))
    names = "astronaut brick chelsea coffee hubble_deep_field page"
    for picture in names.split():
        image = np.asarray(getattr(skimage.data, picture)())
        image = np.dstack([image] * 3) if image.ndim == 2 else image[..., ::-1]
        assert perceiver.perceive(image).detections == (), picture


def test_distortion_a_region_and_another_size_of_the_picture_change_no_pose(
    perceiver: Perceiver,
) -> None:
    rotation, shift = turned(0.3, -0.4, 0.5), np.array([0.35, 0.15, 1.3])
    picture = background()
    added(picture, APRILTAG, 3, rotation, shift)
    image = photographed(picture, blur=0.6, noise=1)
    bent = CALIBRATION.model_copy(update={"distortion": (-0.25, 0.08, 0.001, -0.0005)})
    # Each pixel of the bent picture shows what the straight one shows in the same direction.
    columns, rows = np.meshgrid(np.arange(1280.0), np.arange(720.0))
    matrix = np.array([[bent.fx, 0, bent.cx], [0, bent.fy, bent.cy], [0, 0, 1.0]])
    pixels = np.stack((columns.ravel(), rows.ravel()), 1)[:, None]
    straight = cv2.undistortPoints(pixels, matrix, np.array(bent.distortion), P=matrix)
    maps = straight.reshape(720, 1280, 2).astype(np.float32)
    shot = cv2.remap(image, maps[..., 0], maps[..., 1], cv2.INTER_CUBIC)
    corner = [(0.5, 0.3), (1.0, 0.3), (1.0, 0.9), (0.5, 0.9)]
    cases = [
        (image, CAMERA),
        (shot, CAMERA.model_copy(update={"calibration": bent})),
        (image, CAMERA.model_copy(update={"roi": tuple(corner)})),
        (image, CAMERA.model_copy(update={"roi": tuple(corner), "roi_mode": "mask"})),
        (cv2.resize(image, (640, 360), interpolation=cv2.INTER_AREA), CAMERA),
    ]
    for picture_of_it, camera in cases:
        (seen,) = with_poses(perceiver, picture_of_it, camera)
        assert seen.pose is not None
        assert np.array(seen.pose.translation_m) == pytest.approx(shift, abs=0.012)
        assert degrees_between(matrix_of(seen.pose), rotation) < 1.5
        assert (
            cv2.pointPolygonTest(
                np.array(seen.corners, np.float32), (seen.box.cx, seen.box.cy), False
            )
            > 0
        ), "box and corners are in one place"


def test_a_picture_of_another_shape_gets_no_pose_and_the_log_says_why(
    perceiver: Perceiver, caplog: pytest.LogCaptureFixture
) -> None:
    picture = background()
    added(picture, APRILTAG, 3, FACING, np.array([0.0, 0.0, 1.3]))
    image = np.ascontiguousarray(photographed(picture)[:, 160:1120])
    poses = tag_poses(CAMERA, SIZED)
    assert poses is not None
    for cut in range(3):  # also where each picture has a size of its own
        part = image[: 720 - cut]
        (seen,) = poses.added(perceiver.perceive(part).detections, *part.shape[:2])
        assert (len(seen.corners), seen.pose) == (4, None)
    (line,) = caplog.messages
    assert "camera 'front': its tags get no pose: its pictures of 960 x 720 are of" in line


def test_a_camera_without_calibration_gives_no_pose_and_the_log_says_why(
    perceiver: Perceiver, caplog: pytest.LogCaptureFixture
) -> None:
    picture = background()
    added(picture, APRILTAG, 3, FACING, np.array([0.0, 0.0, 1.3]))
    image = photographed(picture)
    (seen,) = with_poses(perceiver, image, CameraConfig(name="rear"))
    assert seen.pose is None
    (line,) = caplog.messages
    assert "camera 'rear': its tags get no pose: it has no calibration; give" in line
    assert tag_poses(CAMERA, DetectConfig()) is None, "no size, and no poses expected"


@pytest.mark.parametrize("x", [-0.2, 0.0, 0.1])
@pytest.mark.parametrize("y", [0.0, 0.2])
@pytest.mark.parametrize("half", [0.05, 0.0615])
def test_a_tag_that_faces_the_camera_exactly_has_a_pose(x: float, y: float, half: float) -> None:
    """As in a simulator, without noise."""
    camera = CameraConfig.model_validate(
        {"calibration": {"width": 640, "height": 480, "fx": 1.0, "fy": 1.0, "cx": 0.0, "cy": 0.0}}
    )
    poses = tag_poses(camera, SIZED)
    assert poses is not None
    ends = ((-half, -half), (half, -half), (half, half), (-half, half))
    corners = tuple((x + right, y + down) for right, down in ends)
    seen = Detection(3, "t:3", 1.0, Box(x, y, 2 * half, 2 * half), corners=corners)
    pose = poses.added([seen], 480, 640)[0].pose
    assert pose is not None
    distance = SIZE_M / (2 * half)
    assert pose.translation_m == pytest.approx((x * distance, y * distance, distance), abs=1e-6)
    assert degrees_between(matrix_of(pose), FACING) < 0.1


@pytest.mark.parametrize("count", range(9))
def test_a_calibration_has_any_number_of_coefficients(perceiver: Perceiver, count: int) -> None:
    picture = background()
    added(picture, APRILTAG, 3, FACING, np.array([0.0, 0.0, 1.3]))
    found = perceiver.perceive(photographed(picture)).detections
    bent = CALIBRATION.model_copy(update={"distortion": (1e-3,) * count})
    poses = tag_poses(CAMERA.model_copy(update={"calibration": bent}), SIZED)
    assert poses is not None
    assert poses.added(found, 720, 1280)[0].pose is not None


def test_a_calibration_that_maps_nothing_to_the_corners_gives_no_pose(
    perceiver: Perceiver,
) -> None:
    picture = background()
    added(picture, APRILTAG, 3, FACING, np.array([0.5, 0.2, 1.3]))
    found = perceiver.perceive(photographed(picture)).detections
    for distortion in ((-9.0, 0.0, 0.0, 0.0), (1e6,) * 8, (0.0, 0.0, 900.0, 900.0)):
        wrong = CALIBRATION.model_copy(update={"distortion": distortion})
        poses = tag_poses(CAMERA.model_copy(update={"calibration": wrong}), SIZED)
        assert poses is not None
        (seen,) = poses.added(found, 720, 1280)
        assert (len(seen.corners), seen.pose) == (4, None)


def test_filters_apply_to_tags(perceiver: Perceiver) -> None:
    picture = background()
    for index, x in enumerate((-0.4, 0.0, 0.4)):
        added(picture, APRILTAG, index, FACING, np.array([x, 0.0, 1.6]))
    image = photographed(picture)

    def seen(**filters: object) -> list[int]:
        config = NodeConfig.model_validate({"detect": filters})
        perceiver.use(perceiver.task_for(config))
        return sorted(item.id for item in perceiver.perceive(image).detections)

    try:
        assert seen() == [0, 1, 2]
        assert seen(classes=["apriltag36h11:1"]) == [1]
        assert seen(max_detections=2) in ([0, 1], [0, 2], [1, 2])
        assert seen(min_box_px=200) == []
        with pytest.raises(ModelError, match="'tag 1' is no class of this model"):
            seen(classes=["tag 1"])
    finally:
        perceiver.use(perceiver.task_for(NodeConfig()))


def test_tracks_and_events_follow_tags_of_high_numbers() -> None:
    model = build_perceiver(ModelConfig(name="apriltag36h10"))
    config = NodeConfig.model_validate({"track": {"enabled": True}})
    scene = Scene(CAMERA, config, model.names)
    tracks, events = [], []
    for index in range(4):
        picture = background()
        added(picture, "DICT_APRILTAG_36h10", 2319, FACING, np.array([0.02 * index, 0.0, 1.6]))
        added(picture, "DICT_APRILTAG_36h10", 2318, FACING, np.array([0.4, 0.01 * index, 1.6]))
        ns = index * 33_000_000
        frame = Frame(photographed(picture), "front", index, Stamp(ns, ns, "host"), None, 0)
        observed = scene.observe(frame, model.perceive(frame.image).seen)
        tracks.append({item.id: item.track for item in observed.seen.detections})
        events += observed.events
    assert tracks[1:] == [tracks[-1]] * 3
    assert set(tracks[-1].values()) == {1, 2}
    assert sorted(event.name for event in events) == ["apriltag36h10:2318", "apriltag36h10:2319"]


def test_odd_frames_are_looked_at_and_show_nothing(perceiver: Perceiver) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    for image in (noise, noise[:1, :1], noise[:, ::-1], noise[:3], np.full_like(noise, 255)):
        assert perceiver.perceive(image).detections == ()


def test_no_family_corrects_so_much_that_textures_become_tags() -> None:
    corrected = {
        name: TagFamily(name, dictionary).corrected
        for name, dictionary in (
            ("apriltag36h11", APRILTAG), ("apriltag16h5", "DICT_APRILTAG_16h5"),
            ("aruco4x4_1000", "DICT_4X4_1000"), ("aruco7x7_1000", "DICT_7X7_1000"),
        )
    }  # fmt: skip
    assert corrected == {
        "apriltag36h11": 2, "apriltag16h5": 0, "aruco4x4_1000": 0, "aruco7x7_1000": 2,
    }  # fmt: skip


def test_the_registry_has_each_family_without_weights() -> None:
    listed = {entry.name: entry for entry in entries()}
    assert {"apriltag36h11", "aruco4x4_50", "aruco7x7_1000", "aruco_original"} < set(NAMES)
    for name in NAMES:
        check_name(name)
        assert (listed[name].task, listed[name].size_mb) == ("detect", 0.0)
        assert listed[name].weights_here
    digests = {load_model(name).digest for name in NAMES}
    assert len(digests) == len(NAMES)
    assert fetch("apriltag36h11") is None
    with pytest.raises(ModelError, match="the nearest: apriltag36h11"):
        load_model("tag36h11")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"runtime": "openvino"}, "model.runtime = 'openvino': .* no network.*\"auto\""),
        ({"precision": "bf16"}, "model.precision = 'bf16': .* no network"),
        ({"device": "cuda"}, "model.device = 'cuda': .* runs in OpenCV on the CPU"),
        ({"weights": "mine.pth"}, "has no network, so no weights; leave model.weights out"),
    ],
)
def test_settings_of_a_network_are_refused_in_one_line(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        build_perceiver(ModelConfig.model_validate({"name": "apriltag36h11", **settings}))
    assert build_perceiver(ModelConfig(name="apriltag36h11", device="cpu")).info.device == "cpu"


def test_a_mesh_takes_no_seconds_and_hides_no_larger_tag(perceiver: Perceiver) -> None:
    """OpenCV alone takes 10 seconds and more, after which the node counts as hung."""
    rows, columns = np.indices((720, 1280)) % 16 < 4
    picture = np.where(rows | columns, 200, 40).astype(np.float32)
    added(picture, APRILTAG, 17, turned(0.2, 0.3, 0.1), np.array([0, 0, 0.7]))
    result = perceiver.perceive(photographed(picture))
    assert [tag.name for tag in result.detections] == ["apriltag36h11:17"]
    assert result.degraded == (
        "tags as small as the hundreds of squares in the picture are not found",
    )
    assert perceiver.perceive(photographed(background())).degraded == ()


def test_a_hundred_small_tags_are_no_crowd() -> None:
    dictionary = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_5X5_1000)
    picture = np.full((720, 1280, 3), 255, np.uint8)
    for tag in range(100):
        row, column = divmod(tag, 20)
        marker = cv2.aruco.generateImageMarker(dictionary, tag, 35)
        picture[130 * row + 60 :, 60 * column + 50 :][:35, :35] = marker[..., None]
    perceiver = build_perceiver(ModelConfig(name="aruco5x5_1000"))
    result = perceiver.perceive(picture)
    assert sorted(tag.id for tag in result.detections) == list(range(100))
    assert result.degraded == ()
