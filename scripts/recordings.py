"""Campaigns on recordings: nodes that are killed while they record, a recording of an hour, and the
punctuality of a replay. Exit 1 if a check fails."""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from recordings.kills import kill_while_recording
from recordings.long import MOST_GROWN_MIB, long_recording, replay_memory
from recordings.timing import MOST_ERROR_MS, replay_timing


def main() -> int:
    """Runs the requested campaigns; prints one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=0, help="nodes to kill while they record")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="length of a recording to write and read")
    parser.add_argument("--replay", action="store_true", help="also replay it with the model")
    parser.add_argument("--timing", metavar="RECORDING", help="play it, and say how punctually")
    arguments = parser.parse_args()
    held = True
    if arguments.timing:
        timing = replay_timing(arguments.timing)
        held = timing.error_ms_p99 < MOST_ERROR_MS
        print(json.dumps(asdict(timing)), flush=True)
    cuts = []
    for cut in kill_while_recording(arguments.kills, arguments.seed):
        cuts.append(cut)
        held = held and cut.whole and not cut.missing
        print(json.dumps(asdict(cut)), flush=True)
    if cuts:
        worst = max(cut.lost_s for cut in cuts)
        summary = {
            "kills": len(cuts),
            "longest_lost_s": worst,
            "missing": sum(cut.missing for cut in cuts),
        }
        print(json.dumps(summary), flush=True)
    if arguments.minutes:
        with tempfile.TemporaryDirectory() as folder:
            hour = long_recording(arguments.minutes, Path(folder))
            held = held and hour.holds
            print(json.dumps(asdict(hour)), flush=True)
            if arguments.replay:
                memory = replay_memory(Path(folder) / "long.mcap")
                held = held and memory[-1] - memory[0] <= MOST_GROWN_MIB
                print(json.dumps({"replay_memory_mib": memory}), flush=True)
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
