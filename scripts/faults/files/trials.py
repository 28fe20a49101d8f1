"""Trials: one command of the node on damaged files, and what it must not do."""

import contextlib
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import seeds as whole
from mutations import mutated
from seeds import RECORDED_FRAMES

_CONFIGURATION = Path(__file__).parents[3] / "config" / "default.toml"
PICTURES_A_TRIAL = 8
EXIT_CODES = (0, 1, 2, 3, 4)
MOST_RSS_MIB = 3000.0
"""Resident memory of a command, which includes torch."""
_GOOD = "zz_good.png"
"""A whole picture beside the damaged ones; last, so that all others come before it."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a command did. code: exit code, negative for a signal; None where it did not end."""

    code: int | None
    output: str
    errors: str
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One command on damaged files.

    kind, file: kind of file, and the seed that was damaged. arguments: of perception-node.
    files: number of damaged files. lost: what is missing after exit code 0 or 3, in words; None
    where nothing is.
    """

    kind: str
    file: str
    arguments: tuple[str, ...]
    files: int
    lost: Callable[[Run], str | None] = lambda run: None

    def wrong(self, run: Run) -> str | None:
        """What the command did that no command may do; None where it did well."""
        if run.code is None:
            return "it hangs"
        if "Traceback (most recent call last)" in run.errors + run.output:
            return "a stack trace"
        if run.code not in EXIT_CODES:
            return f"it ended with {run.code}"
        if run.rss_mib > MOST_RSS_MIB:
            return f"it took {run.rss_mib:.0f} MiB"
        lines = run.errors.strip().splitlines()
        if run.code and not (lines and lines[-1].startswith("error: ")):
            return f"exit code {run.code}, and the last line is no error"
        return self.lost(run)


Kind = Callable[[random.Random, Path, "Seeds"], Trial]


class Seeds:
    """The whole files, made once. folder: an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.of = {
            name: make(self._sub(name))
            for name, make in {
                "pictures": whole.pictures, "videos": whole.videos,
                "recordings": whole.recordings, "models": whole.models,
                "weights": whole.weights, "keys": whole.key_files,
            }.items()
        }  # fmt: skip
        self.model = str(self.folder / "models" / "mine_ir.xml")
        self.good = self.folder / _GOOD
        shutil.copy(self.folder / "pictures" / "plain.png", self.good)

    def _sub(self, name: str) -> Path:
        (self.folder / name).mkdir()
        return self.folder / name


def _pictures(chance: random.Random, folder: Path, seeds: Seeds) -> Trial:
    files = [chance.choice(seeds.of["pictures"]) for _ in range(PICTURES_A_TRIAL)]
    for number, file in enumerate(files):
        damaged = mutated(chance, file.read_bytes(), text=False)
        (folder / f"{number}_{file.name}").write_bytes(damaged)
    shutil.copy(seeds.good, folder / _GOOD)
    lines = folder.with_suffix(".jsonl")

    def lost(run: Run) -> str | None:
        messages = _lines(lines)
        if run.code in (0, 3) and not any(_GOOD in line for line in messages):
            return "the whole picture is not labelled"
        if run.code == 0 and len(messages) < len(files) + 1:
            return f"exit code 0 with {len(messages)} of {len(files) + 1} pictures"
        return None

    arguments = ("label", str(folder), "--model", seeds.model, "--jsonl", str(lines))
    return Trial("pictures", "", arguments, len(files), lost)


def _videos(chance: random.Random, folder: Path, seeds: Seeds) -> Trial:
    file = _damaged(chance, folder, chance.choice(seeds.of["videos"]))
    lines = folder / "labels.jsonl"

    def lost(run: Run) -> str | None:
        count = len(_lines(lines))
        if run.code == 0 and count < (held := _frames_in(file)):
            return f"exit code 0 with {count} of {held} frames"
        return None

    command = chance.choice(("label", "replay"))
    speed = ("--speed", "max") if command == "replay" else ()
    arguments = (command, str(file), *speed, "--model", seeds.model, "--jsonl", str(lines))
    return Trial("videos", file.name, arguments, 1, lost)


def _recordings(chance: random.Random, folder: Path, seeds: Seeds) -> Trial:
    file = _damaged(chance, folder, chance.choice(seeds.of["recordings"]))
    lines = folder / "messages.jsonl"
    replay = ("replay", str(file), "--speed", "max", "--model", seeds.model, "--jsonl", str(lines))
    arguments = replay if file.name == "bag.mcap" else chance.choice((
        ("report", str(file), "--output", str(folder / "page.html")),
        ("export", "jsonl", str(file), str(lines)),
        ("recover", str(file), "--output", str(folder / "repaired.mcap")),
        replay,
    ))  # fmt: skip

    def lost(run: Run) -> str | None:
        count = len(_lines(lines))
        counts = str(lines) in arguments and count < RECORDED_FRAMES
        if run.code == 0 and counts and not _warned(run):
            return f"exit code 0 and no word, with {count} of {RECORDED_FRAMES} messages"
        return None

    return Trial("recordings", arguments[0], arguments, 1, lost)


def _models(chance: random.Random, folder: Path, seeds: Seeds) -> Trial:
    for file in (seeds.folder / "models").iterdir():
        shutil.copy(file, folder)
    file = _damaged(chance, folder, chance.choice(seeds.of["models"]))
    return _on_model("models", file, seeds)


def _cards(chance: random.Random, folder: Path, seeds: Seeds) -> Trial:
    for file in (seeds.folder / "models").iterdir():
        shutil.copy(file, folder)
    _damaged(chance, folder, seeds.folder / "models" / "mine_ir.toml", text=True)
    return _on_model("cards", folder / "mine_ir.xml", seeds)


def _on_model(kind: str, file: Path, seeds: Seeds) -> Trial:
    runs = file.with_suffix({".bin": ".xml", ".data": ".onnx"}.get(file.suffix, file.suffix))
    arguments = ("label", str(seeds.good), "--model", str(runs))
    return Trial(kind, file.name, arguments, 1, _not_labelled)


def _weights(chance: random.Random, folder: Path, seeds: Seeds) -> Trial:
    file = _damaged(chance, folder, seeds.of["weights"][0])
    arguments = ("label", str(seeds.good), "--model", "shufflenet_v2_x0_5", "--runtime", "torch",
                 "--set", f"model.weights={file}")  # fmt: skip
    return Trial("weights", file.name, arguments, 1, _not_labelled)


def _configurations(chance: random.Random, folder: Path, seeds: Seeds) -> Trial:
    file = folder / "robot.toml"
    file.write_bytes(mutated(chance, _CONFIGURATION.read_bytes(), text=True))
    return Trial("configurations", file.name, ("config", "check", str(file)), 1)


def _keys(chance: random.Random, folder: Path, seeds: Seeds) -> Trial:
    keys = folder / "keys"
    shutil.copytree(seeds.folder / "keys", keys)
    file = keys / chance.choice(seeds.of["keys"]).relative_to(seeds.folder / "keys")
    file.write_bytes(mutated(chance, file.read_bytes(), text=chance.random() < 0.3))
    run = ("run", "--source", str(seeds.good), "--model", seeds.model, "--set",
           f"wire.keys={keys}", "--endpoint", f"ipc://{folder}/labels")  # fmt: skip
    arguments = chance.choice((run, ("keys", str(keys), "--client", "arm2")))
    return Trial("keys", file.name, arguments, 1)


KINDS: dict[str, tuple[Kind, int]] = {
    "pictures": (_pictures, 1),
    "videos": (_videos, 5),
    "recordings": (_recordings, 5),
    "models": (_models, 4),
    "cards": (_cards, 3),
    "weights": (_weights, 1),
    "configurations": (_configurations, 6),
    "keys": (_keys, 2),
}
"""Each kind, and its share of the trials. One of pictures has many files."""


def _damaged(chance: random.Random, folder: Path, file: Path, *, text: bool = False) -> Path:
    damaged = folder / file.name
    damaged.write_bytes(mutated(chance, file.read_bytes(), text=text))
    return damaged


def _lines(file: Path) -> Sequence[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def _not_labelled(run: Run) -> str | None:
    return "exit code 0 without a label" if run.code == 0 and not run.output.strip() else None


def _warned(run: Run) -> bool:
    return any(word in run.errors.lower() for word in ("warning", "damaged", "cut off", "skipped"))


def _frames_in(file: Path) -> int:
    """The frames that FFmpeg gets out of a file's first video stream."""
    count = 0
    with contextlib.suppress(av.FFmpegError, OSError, IndexError), av.open(str(file)) as container:
        for _ in container.decode(container.streams.video[0]):
            count += 1
    return count
