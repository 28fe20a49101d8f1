"""Kills nodes while they record, and reads what they left."""

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from faults.rig import ROOT
from node.errors import SourceError
from node.recording.reader import Recording
from node.recording.recover import is_whole, recover
from perception_client.subscriber import Status, Subscriber

KEPT_BEFORE_S = 1.0
"""Messages older than this at the kill of a node must be in the file."""
_SECONDS_A_FLUSH = 1.0


@dataclass(frozen=True, slots=True)
class Cut:
    """One node that was killed. missing: messages older than a second that are not in the file."""

    after_s: float
    received: int
    kept: int
    missing: int
    lost_s: float
    whole: bool


def kill_while_recording(kills: int, seed: int) -> Iterator[Cut]:
    """Kills nodes, each at a random moment of its first four seconds."""
    moments = random.Random(seed)
    for _ in range(kills):
        with tempfile.TemporaryDirectory() as folder:
            yield _killed(Path(folder), moments.uniform(0.05, 4.0))


def _killed(folder: Path, after_s: float) -> Cut:
    endpoint = f"ipc://{folder}/labels"
    node = subprocess.Popen(
        [sys.executable, "-m", "node", "record", "--source", "demo", "--endpoint", endpoint,
         "--output", str(folder)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT,
    )  # fmt: skip
    received: dict[int, int] = {}
    with Subscriber(endpoint, timeout_s=60) as subscriber:
        message, _ = subscriber.receive(60)
        while message.status is not Status.OK:
            message, _ = subscriber.receive(60)
        until = time.monotonic() + after_s
        while (left_s := until - time.monotonic()) > 0:
            received[message.seq] = message.published_ns
            if subscriber.wait(left_s):
                message, _ = subscriber.receive(1)
    node.kill()
    node.wait()
    killed_ns = time.time_ns()
    (cut,) = folder.glob("*.mcap")
    repaired = folder / "repaired.mcap"
    try:
        recover(cut, repaired)
        kept = {
            message.seq: message.published_ns
            for _, message in Recording([repaired]).messages("labels")
        }
        whole = is_whole(repaired)
    except SourceError:  # killed before its first half second
        kept, whole = {}, after_s < _SECONDS_A_FLUSH
    due = [n for n, at_ns in received.items() if killed_ns - at_ns > KEPT_BEFORE_S * 1e9]
    missing = sum(n not in kept for n in due)
    lost_s = (killed_ns - max(kept.values(), default=killed_ns - int(after_s * 1e9))) / 1e9
    return Cut(after_s, len(received), len(kept), missing, lost_s, whole)
