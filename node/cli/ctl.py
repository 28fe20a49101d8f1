"""`perception-node ctl`: sends requests to a running node."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from node.cli.options import Number, together
from node.config.load import toml_value
from node.errors import ConfigError, ControlError
from node.process.output_files import write_whole
from perception_client.control import DEFAULT_CONTROL_ENDPOINT, Answer, Control
from perception_client.errors import NoAnswerError
from perception_client.text import printable_json

_Result = TypeVar("_Result")

CAMERA = click.argument("camera", required=False)
CAMERA_OPTION = click.option(
    "--camera", "named_camera", metavar="NAME", help="The same as CAMERA; default: all."
)
_JPEG = (".jpg", ".jpeg", "")


@click.group("ctl")
@click.option(
    "--endpoint", default=DEFAULT_CONTROL_ENDPOINT, show_default=True, metavar="EP",
    help="The node's control.endpoint.",
)  # fmt: skip
@click.option(
    "--keys", type=click.Path(path_type=Path), metavar="FOLDER",
    help="This client's folder of keys, if the node requires keys.",
)  # fmt: skip
@click.option(
    "--timeout", type=Number(0, for_ever=True), default=5.0, show_default=True, metavar="S",
    help="Seconds to wait for the answer.",
)  # fmt: skip
@click.pass_context
def command(context: click.Context, endpoint: str, keys: Path | None, timeout: float) -> None:
    """Control a running node: pause, resume, settings, model, snapshot, recording.

    Answers are JSON; `first_seq` is the number of each camera's first message after a change.

    Example: perception-node ctl set detect.score=0.4
    """
    context.obj = lambda: Control(endpoint, keys=keys, timeout_s=timeout)


@command.command("status")
@click.pass_obj
def status_command(connect: Callable[[], Control]) -> None:
    """Show health, model and the changeable settings.

    Example: perception-node ctl status
    """
    _print(_asked(connect, lambda node: node.status()))


@command.command("pause")
@together(CAMERA, CAMERA_OPTION)
@click.pass_obj
def pause_command(
    connect: Callable[[], Control], camera: str | None, named_camera: str | None
) -> None:
    """Stop labelling one camera, or all; their status becomes `paused`.

    Example: perception-node ctl pause front
    """
    name = _one_of(camera, named_camera)
    _print_answer(_asked(connect, lambda node: node.pause(name)))


@command.command("resume")
@together(CAMERA, CAMERA_OPTION)
@click.pass_obj
def resume_command(
    connect: Callable[[], Control], camera: str | None, named_camera: str | None
) -> None:
    """Label one camera, or all, again.

    Example: perception-node ctl resume
    """
    name = _one_of(camera, named_camera)
    _print_answer(_asked(connect, lambda node: node.resume(name)))


@command.command("set")
@click.argument("settings", metavar="KEY=VALUE...", nargs=-1, required=True)
@click.pass_obj
def set_command(connect: Callable[[], Control], settings: tuple[str, ...]) -> None:
    """Change thresholds, top-k, smoothing or rates, all of them or none. KEY=null unsets a key
    whose default is none, such as max_fps, detect.classes, detect.tag_size_m.

    Example: perception-node ctl set detect.score=0.4 camera.front.max_fps=10
    """
    values = {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise ConfigError(f"{setting}: write it as KEY=VALUE, for example detect.score=0.4")
        values[key.strip()] = toml_value(text.strip())
    _print_answer(_asked(connect, lambda node: node.set(values)))


@command.command("model")
@click.argument("name")
@click.option("--weights", metavar="FILE", help="Weights file of your own, on the node's computer.")
@click.option(
    "--timeout", type=Number(0, for_ever=True), default=120.0, show_default=True, metavar="S",
    help="Seconds to wait for the answer.",
)  # fmt: skip
@click.pass_obj
def model_command(
    connect: Callable[[], Control], name: str, weights: str | None, timeout: float
) -> None:
    """Replace the running model between two frames; labelling goes on while the new model loads.

    Example: perception-node ctl model resnet18
    """
    _print_answer(_asked(connect, lambda node: node.model(name, weights, timeout_s=timeout)))


@command.command("snapshot")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--camera", metavar="NAME", help="Camera of the snapshot; default: the first.")
@click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True)
@click.pass_obj
def snapshot_command(
    connect: Callable[[], Control], file: Path, camera: str | None, quality: int
) -> None:
    """Write the next labelled frame as JPEG; its message goes to stdout.

    Example: perception-node ctl snapshot front.jpg --camera front
    """
    if file.suffix.lower() not in _JPEG:
        raise ConfigError(
            f"{file}: a snapshot is a JPEG, whose file ends in .jpg or .jpeg",
            fix=f"name it {file.with_suffix('.jpg')}",
        )
    picture = _asked(connect, lambda node: node.snapshot(camera, quality))
    write_whole(file, picture.jpeg)

    from perception_client.messages.codec import to_map

    _print(to_map(picture.message))


@command.command("record")
@click.argument("action", type=click.Choice(["start", "stop", "dump"]))
@click.pass_obj
def record_command(connect: Callable[[], Control], action: str) -> None:
    """Start or stop recording, or write the black box; print the file's path on the node's side.

    Example: perception-node ctl record start
    """
    _print({"file": _asked(connect, lambda node: node.record(action))})


@command.command("step")
@click.argument("frames", type=click.IntRange(1), default=1)
@click.pass_obj
def step_command(connect: Callable[[], Control], frames: int) -> None:
    """Make a replay with --step label its next frames, and print their messages.

    Example: perception-node ctl step 10
    """
    from perception_client.messages.codec import to_json

    for message in _asked(connect, lambda node: node.step(frames)):
        click.echo(to_json(message))


def _one_of(camera: str | None, named_camera: str | None) -> str | None:
    """Returns the camera of an argument or an option. Raises ConfigError for two different ones."""
    if camera and named_camera and camera != named_camera:
        raise ConfigError(
            f"{camera} and --camera {named_camera} are two cameras", fix="name one, or none for all"
        )
    return camera or named_camera


def _asked(connect: Callable[[], Control], ask: Callable[[Control], _Result]) -> _Result:
    """Sends one request. Raises ControlError where the node refuses it or does not answer."""
    with connect() as node:
        try:
            return ask(node)
        except NoAnswerError as error:
            raise ControlError(error.problem, fix=error.fix) from error


def _print_answer(answer: Answer) -> None:
    _print({"settings": answer.settings, "first_seq": answer.first_seq})


def _print(answer: Mapping[str, Any]) -> None:
    click.echo(printable_json(json.dumps(answer, ensure_ascii=False)))
