"""`perception-node record`: labels live and records."""

import threading
from pathlib import Path

import click

from node.cli.options import (
    CONFIG,
    ENDPOINT,
    MODEL,
    MOST_S,
    RUNTIME,
    SETTINGS,
    Number,
    configured,
    together,
)
from node.cli.run import SOURCE, label_live
from node.cli.stopping import stoppable
from node.config.load import changed
from node.errors import OutputError


@click.command("record")
@together(CONFIG, SOURCE, MODEL, RUNTIME, ENDPOINT, SETTINGS)
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FOLDER",
    help="Folder of the files (recording.folder).",
)  # fmt: skip
@click.option(
    "--duration",
    type=Number(0.1, MOST_S),
    metavar="S",
    help="Stop S seconds after the first frame.",
)
def command(
    config_file: Path | None,
    source: str | None,
    model: str | None,
    runtime: str | None,
    endpoint: str | None,
    settings: tuple[str, ...],
    output: Path | None,
    duration: float | None,
) -> None:
    """Run the node, and record frames, labels, events and health into MCAP files.

    Ctrl-C stops. Foxglove opens the files, and `perception-node replay` labels them again.

    Example: perception-node record --source /dev/video0 --output recordings --duration 60
    """
    config = configured(
        config_file, settings, source=source, model=model, runtime=runtime, endpoint=endpoint
    )
    changes: dict[str, object] = {"recording.enabled": True}
    if output is not None:
        changes["recording.folder"] = str(output)
    config = changed(config, changes)
    with stoppable() as stop:
        if duration is None:
            outcome = label_live(config, stop)
        else:
            countdown = _Countdown(duration, stop)
            outcome = label_live(config, stop, on_capture=countdown.note)
            countdown.cancel()
    if outcome.unrecorded is not None:
        raise OutputError(f"the recording is incomplete: {outcome.unrecorded}")


class _Countdown:
    """Sets an event some seconds after the first frame, or after the start of capture where no
    frame comes."""

    def __init__(self, seconds: float, ended: threading.Event) -> None:
        self._seconds = seconds
        self._ended = ended
        self._lock = threading.Lock()
        self._timers: list[threading.Timer] = []

    def note(self) -> None:
        """Notes the start of capture, then the first frame; later calls do nothing. Any thread."""
        with self._lock:
            if len(self._timers) == 2:
                return
            for timer in self._timers:
                timer.cancel()
            timer = threading.Timer(self._seconds, self._ended.set)
            timer.daemon = True
            timer.start()
            self._timers.append(timer)

    def cancel(self) -> None:
        """Ends the countdown without the event."""
        for timer in self._timers:
            timer.cancel()
