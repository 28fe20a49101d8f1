"""BgrConverter: the pixels of decoded video frames, upright. Files and streams share it, so that
both show the same colours the same way up."""

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import TYPE_CHECKING, cast

import numpy as np

from node.errors import PictureError
from node.image.frame import Image
from node.image.orientation import AS_STORED, Orientation

if TYPE_CHECKING:
    from av import VideoFrame
    from av.filter import Graph

_ABORTING = "yaf"
"""Start of the names of pixel formats for which FFmpeg's conversion aborts the process."""


class BgrConverter:
    """Converts frames of one video. Not thread-safe.

    The matrix (BT.601, BT.709, BT.2020) and the range of the colours are the frame's own; a frame
    without them counts as BT.601 with limited range, as in FFmpeg.

    A filter graph converts, since it reuses the memory of its pictures: `VideoFrame.reformat`
    allocates each one anew, which takes as long as the conversion.
    """

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._properties: tuple[int | str, ...] = ()

    def bgr(self, frame: "VideoFrame") -> Image:
        """Returns [height, width, 3] uint8 BGR. Raises PictureError for a pixel format that cannot
        be converted."""
        import av

        properties = (
            frame.width,
            frame.height,
            frame.format.name,
            int(frame.colorspace),
            int(frame.color_range),
        )
        try:
            if self._graph is None or properties != self._properties:
                self._graph, self._properties = _graph(frame), properties
            self._graph.vpush(frame)
            image = np.asarray(self._graph.vpull().to_ndarray(), np.uint8)
        except (av.FFmpegError, ValueError) as error:
            self._graph = None
            raise PictureError(
                f"pixels in the format {frame.format.name} cannot be converted: {error}"
            ) from error
        return _orientation(frame).upright(image)


def shown_size(frame: "VideoFrame") -> tuple[int, int]:
    """Returns the height and width of a frame once it is upright, in pixels."""
    size = frame.height, frame.width
    return size[::-1] if _orientation(frame).transposed else size


def _graph(frame: "VideoFrame") -> "Graph":
    import av

    if frame.format.name.startswith(_ABORTING):
        raise ValueError("FFmpeg has no conversion for it")
    graph = av.filter.Graph()
    # More threads gain little, and every camera would start its own.
    graph.threads = 1
    graph.link_nodes(
        graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format,
            time_base=Fraction(1, 1000),
        ),
        graph.add("format", "bgr24"),
        graph.add("buffersink"),
    ).configure()
    return graph


def _orientation(frame: "VideoFrame") -> Orientation:
    """The display matrix of the container, or of the coded video itself."""
    from av.sidedata.sidedata import SideData, SideDataContainer, Type

    # `frame.side_data` would keep a container that refers to the frame: a cycle, in which hundreds
    # of frames wait for the garbage collector. The annotation says a mapping; it is a sequence.
    container = cast("Callable[[VideoFrame], Iterable[SideData]]", SideDataContainer)(frame)
    for data in container:
        if data.type is Type.DISPLAYMATRIX:
            return Orientation.of_matrix(bytes(data))
    return AS_STORED
