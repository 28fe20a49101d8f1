"""The source `demo`: a view that moves over photographs, for a computer without a camera."""

import importlib.util
import math
import time
from pathlib import Path

import numpy as np

from node.capture.sources.base import Picture, SourceFacts
from node.capture.sources.image_files import read_image
from node.errors import SourceError
from node.image.frame import Image, Stamp
from node.image.opencv import cv2

WIDTH, HEIGHT, FPS = 640, 480, 30.0
SECONDS_A_PICTURE = 3.0

# Photographs in scikit-image that show a class of ImageNet, which the default model recognises in
# every view below (asserted by a test): a cup of espresso and a photographer's tripod. Excluded:
# the cat, which the model takes for an Egyptian cat when the view moves; the motorcycle and the
# astronaut, for which ImageNet has no class.
PICTURES = {"coffee.png": "espresso", "camera.png": "tripod"}


class DemoSource:
    """Shows each photograph in turn, without end; the view pans and zooms."""

    live = False

    def __init__(self) -> None:
        folder = _folder()
        self._photos = [read_image(folder / name) for name in PICTURES]
        self._frame = 0
        self.facts = SourceFacts(WIDTH, HEIGHT, FPS)

    def read(self) -> Picture:
        """As `Source.read`; never None."""
        started_ns = time.monotonic_ns()
        seconds = self._frame / FPS
        photo = self._photos[int(seconds / SECONDS_A_PICTURE) % len(self._photos)]
        image = _view(photo, seconds)
        media_ns = round(seconds * 1e9)
        self._frame += 1
        return Picture(image, Stamp.at_media(media_ns), media_ns, time.monotonic_ns() - started_ns)

    def summary(self) -> str | None:
        """As `Source.summary`."""
        return None

    def close(self) -> None:
        """As `Source.close`."""
        pass


def _view(photo: Image, seconds: float) -> Image:
    """Returns the window at a time, [HEIGHT, WIDTH, 3] uint8 BGR: 85 to 100 % of the photograph's
    height, panning over the rest."""
    height, width = photo.shape[:2]
    phase = 2 * math.pi * seconds / SECONDS_A_PICTURE
    window_height = min(height, width * HEIGHT / WIDTH) * (0.925 + 0.075 * math.cos(phase))
    window_width = window_height * WIDTH / HEIGHT
    left = (width - window_width) * (0.5 + 0.5 * math.sin(phase))
    top = (height - window_height) * (0.5 + 0.5 * math.cos(phase / 2))
    scale = WIDTH / window_width
    transform = np.array([[scale, 0, -left * scale], [0, scale, -top * scale]])
    view = cv2.warpAffine(photo, transform, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
    return np.asarray(view, np.uint8)


def _folder() -> Path:
    # Located without an import, which would take a second.
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SourceError("the source 'demo' needs the photographs of the package scikit-image")
    return Path(spec.origin).parent / "data"
