"""Prints a table of the tracks of a video, and optionally writes a video with the tracks drawn.

python scripts/tracks.py VIDEO --model yolox_nano.onnx [--every 2] [--overlay FILE.mp4]
"""

import sys
from collections import defaultdict
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.table import Table

from node.capture.grabber import number
from node.capture.sources.video_file import VideoFileSource
from node.cli.options import configured, load_perceiver
from node.image.frame import Image
from node.image.opencv import cv2
from node.perception.temporal.scene import Scene
from perception_client.messages.kinds import Detection

COLORS = ((66, 135, 245), (80, 200, 120), (245, 130, 49), (230, 60, 110), (60, 200, 220))


@click.command()
@click.argument("video", type=click.Path(exists=True, path_type=Path))
@click.option("--model", required=True, help="A detector: a name or a model file.")
@click.option("--every", type=click.IntRange(1), default=1, help="Look at every n-th frame only.")
@click.option("--overlay", type=click.Path(path_type=Path), help="Write the boxes over the video.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE")
def main(
    video: Path, model: str, every: int, overlay: Path | None, settings: tuple[str, ...]
) -> None:
    """Follow the objects of a video and print a table of the tracks."""
    config = configured(None, ("track.enabled=true", *settings), model=model)
    perceiver = load_perceiver(config)
    scene = Scene(config.camera[0], config, perceiver.names)
    times: dict[int, list[float]] = defaultdict(list)
    names: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    source = VideoFileSource(video)
    writer = None
    frame_id = 0
    while (picture := source.read()) is not None:
        frame = number(picture, "camera", frame_id)
        frame_id += 1
        if frame.frame_id % every or frame.stamp is None:
            continue
        seen = scene.observe(frame, perceiver.perceive(frame.image).seen).seen
        for detection in seen.detections:
            if detection.track is not None:
                times[detection.track].append(frame.stamp.unix_ns / 1e9)
                names[detection.track][detection.name] += 1
        if overlay is not None:
            drawn = _drawn(frame.image, seen.detections)
            if writer is None:
                size = (drawn.shape[1], drawn.shape[0])
                code = cv2.VideoWriter.fourcc(*"mp4v")
                writer = cv2.VideoWriter(str(overlay), code, 25.0, size)
            writer.write(drawn)
    if writer is not None:
        writer.release()
    table = Table("track", "class", "frames", "from", "to", "seconds", box=None, pad_edge=False)
    for track, seen_at in times.items():
        name = max(names[track], key=lambda name: names[track][name])
        first, last = seen_at[0], seen_at[-1]
        row = (track, name, len(seen_at), f"{first:.1f}", f"{last:.1f}", f"{last - first:.1f}")
        table.add_row(*map(str, row))
    Console().print(table)
    print(f"{len(times)} tracks in {frame_id} frames, every {every} looked at")


def _drawn(image: Image, detections: tuple[Detection, ...]) -> Image:
    drawn = image.copy()
    for detection in detections:
        color = COLORS[(detection.track or 0) % len(COLORS)] if detection.track else (160, 160, 160)
        box = detection.box
        start = int(box.cx - box.w / 2), int(box.cy - box.h / 2)
        cv2.rectangle(drawn, start, (int(box.cx + box.w / 2), int(box.cy + box.h / 2)), color, 2)
        caption = f"{detection.name} {detection.score:.2f}" + (
            f" #{detection.track}" if detection.track else ""
        )
        origin = (start[0], max(12, start[1] - 4))
        cv2.putText(drawn, caption, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.5, color, 1, cv2.LINE_AA)
    return drawn


if __name__ == "__main__":
    main()
