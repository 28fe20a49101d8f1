"""`perception-node recover`: repairs recordings that were cut off or damaged."""

from pathlib import Path

import click

from node.cli.options import LIMITS, limited
from node.cli.say import say
from node.config.redact import addresses_in, hidden
from node.errors import ConfigError, SourceError


@click.command("recover")
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH..."
)
@click.option(
    "--output", type=click.Path(path_type=Path), metavar="FILE",
    help="The repaired file; default: beside the broken one, with `_recovered` in its name.",
)  # fmt: skip
@click.option("--in-place", is_flag=True, help="Replace the broken file with the repaired one.")
@LIMITS
def command(
    paths: tuple[Path, ...], output: Path | None, in_place: bool, settings: tuple[str, ...]
) -> None:
    """Save everything readable of recordings that a crash or a power loss cut off.

    PATH is a file, or a folder of files. Intact files stay unchanged. The broken file stays,
    unless --in-place is given. A file that is being written is left alone.

    Example: perception-node recover recordings/
    """
    limited(settings)
    from node.recording.mcap_writer import is_being_written
    from node.recording.recover import is_whole, recover

    files = _files_of(paths)
    if output is not None and (len(files) > 1 or in_place):
        raise ConfigError("--output is for one file, and without --in-place")
    failed = 0
    for file in files:
        if is_being_written(file):
            failed += file in paths  # within a folder, a running recording is not a failure
            say(f"{file} is being written, left alone; stop the recording first", err=True)
            continue
        try:
            if is_whole(file):
                say(f"{file}: whole, left as it is")
                continue
            to = output or file.with_name(f"{file.stem}_recovered{file.suffix}")
            if in_place:
                to = file.with_name(f".{file.name}.repairing")
            if is_being_written(to):
                failed += file in paths
                click.echo(f"{file} is being repaired by another command, left alone", err=True)
                continue
            if in_place:
                to.unlink(missing_ok=True)
            elif output is None and to.exists():
                if is_whole(to):
                    say(f"{file}: repaired already, in {to}")
                    continue
                to.unlink()  # the rest of a repair that was interrupted
            recovered = recover(file, to)
        except SourceError as error:
            failed += 1
            say(f"error: {hidden(str(error), addresses_in([str(file)]))}", err=True)
            continue
        if in_place:
            to.replace(file)
        say(
            f"{file}: {recovered.messages} records of {recovered.seconds:.1f} s saved in "
            f"{file if in_place else to}"
        )
        for problem in recovered.problems:
            say(f"  {problem.partition('; repair it with: ')[0]}", err=True)
    if failed:
        raise SourceError(f"{failed} of {len(files)} files could not be repaired")


def _files_of(paths: tuple[Path, ...]) -> list[Path]:
    """The named files, and the recordings of the named folders that are no earlier repair."""
    from perception_client.recordings.runs import find_recording

    files: list[Path] = []
    for path in paths:
        recordings = find_recording(str(path)) if path.is_dir() else [path]
        if recordings is None:
            raise SourceError(f"{path} holds no recordings (*.mcap)")
        files += [file for file in recordings if "_recovered" not in file.stem or file in paths]
    return files
