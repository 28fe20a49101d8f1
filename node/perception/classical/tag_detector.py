"""TagDetector: finds the tags of one family in a frame, by OpenCV's ArucoDetector, and refines
their corners. ReadTags: the task that makes detections of them."""

from hashlib import sha256
from math import comb

import cv2
import numpy as np
from numpy.typing import NDArray

from node.config.schema import DetectConfig
from node.errors import FrameError, ModelError
from node.perception.classical.tag_crowds import LEAST_SHARE, least_share
from node.perception.classical.tag_edges import refined
from node.perception.runtimes.base import Pixels, RuntimeInfo
from node.perception.tasks.base import Outputs, Prediction
from node.perception.tasks.detect import score_thresholds
from perception_client.messages.kinds import Box, Detection

_FIRST_TAG = {
    "apriltag16h5": 0x231B,
    "apriltag25h9": 0x155CBF1,
    "apriltag36h10": 0x1CA92A687,
    "apriltag36h11": 0xD5D628584,
}
"""Tag 0 of each AprilTag family as the AprilTag library prints it: its bits row after row from the
top left, 1 is white (as AprilTag 2 lists them; AprilTag 3 lists them in another order). The tables
of OpenCV up to 5.0 hold these families turned by half a turn (opencv/opencv, pull request 28823).
"""
_MOST_CORRECTED = 2
"""Most wrong bits of a tag that are corrected: the default of the AprilTag library."""
_CHANCE_OF_A_FALSE_TAG = 1e-4
"""Largest chance that a square of random bits counts as a tag because of the correction; a family
with a larger chance gets no correction."""
_WRONG_BORDER = 0.1
"""Largest number of white cells in a tag's black border, as a share of the cells inside: with
OpenCV's 0.35 textures become tags."""
_CELL_PX = 8
"""Pixels for each side of a cell when the bits are read; with OpenCV's 4 small, blurred tags are
lost."""
_LEAST_OUTLINE = 0.8
"""Lowest score of a tag. Tags have 0.95 and more, also under blur and noise; what a family of few
bits finds in photographs has 0.7."""

_CROWD = "tags as small as the hundreds of squares in the picture are not found"
"""The reason of `degraded` for a picture that `tag_crowds` limits."""


class TagFamily:
    """A family of tags.

    Attributes:
        name: of its model.
        label_names: of its tags, in the order of their numbers.
        cells: on each side of a tag, with the black border.
        corrected: wrong bits that are corrected.
        turns: quarter turns, counterclockwise, from OpenCV's picture of a tag to the printed tag.
        dictionary: OpenCV's.

    Args:
        name: of its model.
        opencv_name: of OpenCV's constant.

    Raises:
        ModelError: OpenCV was built without tags.
    """

    def __init__(self, name: str, opencv_name: str) -> None:
        if not hasattr(getattr(cv2, "aruco", None), "ArucoDetector"):
            raise ModelError(
                f"model {name!r}: OpenCV {cv2.__version__} of this computer has no ArucoDetector",
                fix="install opencv-python 4.12 or newer, or build OpenCV with objdetect",
            )
        number = int(getattr(cv2.aruco, opencv_name))
        self.name = name
        self.dictionary = cv2.aruco.getPredefinedDictionary(number)
        count, side = len(self.dictionary.bytesList), self.dictionary.markerSize
        self.label_names = tuple(f"{name}:{tag}" for tag in range(count))
        self.cells = side + 2
        self.corrected = _corrected(count, side * side)
        self.turns = self._turns()
        # Explicit: OpenCV 4 corrects no bits of an AprilTag, OpenCV 5 up to five.
        self.dictionary.maxCorrectionBits = self.corrected

    @property
    def digest(self) -> str:
        """sha256 of the name and the bits of all tags, hexadecimal."""
        bits = np.ascontiguousarray(self.dictionary.bytesList).tobytes()
        return sha256(self.name.encode() + bits).hexdigest()

    def _turns(self) -> int:
        usual = _FIRST_TAG.get(self.name)
        if usual is None:
            return 0
        first = cv2.aruco.generateImageMarker(self.dictionary, 0, self.cells)[1:-1, 1:-1] > 0
        codes = [
            int("".join("01"[bit] for bit in np.rot90(first, turns).ravel().astype(int)), 2)
            for turns in range(4)
        ]
        return codes.index(usual)


def _corrected(count: int, bits: int) -> int:
    """Returns the number of wrong bits that are corrected. The chance that random bits lie within
    k bits of one of `count` tags, in any of four turns, is 4 * count * sum(C(bits, i), i <= k) /
    2^bits."""
    for corrected in range(_MOST_CORRECTED, 0, -1):
        near = sum(comb(bits, wrong) for wrong in range(corrected + 1))
        if 4 * count * near / 2**bits <= _CHANCE_OF_A_FALSE_TAG:
            return corrected
    return 0


class TagDetector:
    """Finds tags: a `Runtime` on the whole frame, in grey, at full resolution. The corners come
    from the edges of each tag (`refined`). Not thread-safe."""

    info = RuntimeInfo("opencv", "fp32", "cpu")

    def __init__(self, family: TagFamily) -> None:
        self.degraded: tuple[str, ...] = ()
        parameters = cv2.aruco.DetectorParameters()
        parameters.errorCorrectionRate = 1.0
        parameters.maxErroneousBitsInBorderRate = _WRONG_BORDER
        parameters.perspectiveRemovePixelPerCell = _CELL_PX
        self._family = family
        self._parameters = parameters
        self._detector = cv2.aruco.ArucoDetector(family.dictionary, parameters)

    def infer(self, pixels: Pixels) -> Outputs:
        """Finds the tags of one frame.

        Args:
            pixels: [1, height, width, 3] uint8 BGR.

        Returns:
            The corners [1, n, 4, 2] in pixels, clockwise from the top left of the printed tag, the
            numbers [1, n] and the scores [1, n] of the tags, each float32.

        Raises:
            FrameError: OpenCV failed.
        """
        (image,) = np.asarray(pixels)
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        self._leave_out_crowds(least_share(grey))
        try:
            quads, ids, _ = self._detector.detectMarkers(grey)
        except cv2.error as error:
            height, width = grey.shape
            raise FrameError(f"OpenCV finds no tags in {width} x {height} px: {error}") from error
        count = len(quads)
        corners = np.asarray(quads, np.float64).reshape(count, 4, 2)
        corners, scores = refined(grey, corners, self._family.cells)
        corners = np.roll(corners, -self._family.turns, axis=1)
        numbers = np.zeros(0) if ids is None else np.asarray(ids).ravel()
        clear = scores >= _LEAST_OUTLINE
        corners, numbers, scores = corners[clear], numbers[clear], scores[clear]
        return (
            corners[None].astype(np.float32),
            numbers[None].astype(np.float32),
            scores[None].astype(np.float32),
        )

    def _leave_out_crowds(self, share: float) -> None:
        """Sets the least perimeter of a tag for the next frame."""
        if share != self._parameters.minMarkerPerimeterRate:
            self._parameters.minMarkerPerimeterRate = share
            self._detector.setDetectorParameters(self._parameters)
        self.degraded = (_CROWD,) if share > LEAST_SHARE else ()


class ReadTags:
    """The task of a tag detector: makes detections of its outputs.

    Args:
        names: of the tags, in the order of their numbers.
        config: filters of the detections.

    Raises:
        ModelError: the settings name unknown tags.
    """

    def __init__(self, names: tuple[str, ...], config: DetectConfig) -> None:
        self._names = names
        self._config = config
        self._thresholds = score_thresholds(names, config)

    def read(self, outputs: Outputs, index: int, size: tuple[int, int]) -> Prediction:
        """As `Task.read`: the tags, the clearest first."""
        corners, numbers, scores = (output[index] for output in outputs)
        ids = numbers.astype(np.int64)
        limits = np.array([size[1], size[0]], np.float32)
        low = np.clip(corners.min(1), 0, limits)
        sides = np.clip(corners.max(1), 0, limits) - low
        accepted = scores >= self._thresholds[ids]
        accepted &= (sides >= self._config.min_box_px).all(1)
        order = np.argsort(-scores, kind="stable")
        best = order[accepted[order]][: self._config.max_detections]
        return Prediction(
            detections=tuple(
                self._detection(
                    int(ids[tag]), float(scores[tag]), low[tag], sides[tag], corners[tag]
                )
                for tag in best
            )
        )

    def agreement(self, outputs: Outputs, reference: Outputs) -> tuple[float, float]:
        """As `Task.agreement`: 1 where the same tags were found, else 0. There is one runtime."""
        same = np.array_equal(np.sort(outputs[1][0]), np.sort(reference[1][0]))
        return float(same), 0.0

    def _detection(
        self,
        number: int,
        score: float,
        low: NDArray[np.float32],
        sides: NDArray[np.float32],
        corners: NDArray[np.float32],
    ) -> Detection:
        cx, cy = (low + sides / 2).tolist()
        width, height = sides.tolist()
        return Detection(
            id=number,
            name=self._names[number],
            score=score,
            box=Box(cx, cy, width, height),
            corners=tuple((x, y) for x, y in corners.tolist()),
        )
