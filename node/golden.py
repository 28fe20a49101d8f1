"""Golden files: the messages of an earlier replay, one JSON object a line, to compare with."""

import json
from pathlib import Path
from typing import Any

import click

from node.errors import ConfigError

OF_THIS_RUN = frozenset({"session", "published_ns", "published_mono_ns", "timing_ns", "retained"})
"""Fields that tell of the run and not of the recording; they are not compared."""
MOST_SHOWN = 10

Map = dict[str, Any]


def read_golden(file: Path) -> list[Map]:
    """The messages of a `--jsonl` file. Raises ConfigError naming file and line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{file} cannot be read: {reason}") from error
    return [_message(file, number, line) for number, line in enumerate(lines, start=1)]


class Comparison:
    """Holds messages, as they come, against golden ones. Used by one thread at a time."""

    def __init__(self, golden: list[Map]) -> None:
        self._golden = golden
        self._seen = 0
        self._differing = 0
        self._shown: list[str] = []

    def add(self, message: Map) -> None:
        """Compares the next message."""
        place = self._seen
        self._seen += 1
        if place >= len(self._golden):
            return
        changes = _changes(self._golden[place], json.loads(json.dumps(message)))
        if changes:
            self._differing += 1
            if len(self._shown) < MOST_SHOWN:
                self._shown.append(f"line {place + 1}: {'; '.join(changes)}")

    def report(self) -> int:
        """Prints what differs to stdout; the exit code: 0 the same, 1 not."""
        for line in self._shown:
            click.echo(line)
        if self._differing > len(self._shown):
            click.echo(f"... and {self._differing - len(self._shown)} more")
        missing = len(self._golden) - self._seen
        if missing > 0:
            click.echo(f"{missing} expected messages did not come")
        elif missing < 0:
            click.echo(f"{-missing} messages more than expected")
        same = not self._differing and not missing
        verdict = "the same as expected" if same else f"{self._differing} differ from expected"
        click.echo(f"{self._seen} messages, {verdict}")
        return 0 if same else 1


def _changes(expected: Map, got: Map) -> list[str]:
    keys = sorted((expected.keys() | got.keys()) - OF_THIS_RUN)
    return [
        f"{key}: expected {_shown(expected.get(key))}, got {_shown(got.get(key))}"
        for key in keys
        if expected.get(key) != got.get(key)
    ]


def _shown(value: object) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict) and "name" in value[0]:
        return ", ".join(f"{entry['name']} {entry['score']:.6f}" for entry in value[:3])
    return json.dumps(value, ensure_ascii=False)[:80]


def _message(file: Path, number: int, line: str) -> Map:
    try:
        message = json.loads(line)
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise ConfigError(f"{file}, line {number} is not a JSON object; was it made by --jsonl?")
    return message
