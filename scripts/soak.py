"""Runs the node's own path from mailbox to message for very many frames of a source that is faster
than the model, and holds that neither memory nor age grows. With `--minutes` a whole node in a
process of its own, with a fault every few seconds. Exit 1 when something grows."""

import argparse
import json
import os
import sys
from dataclasses import asdict

from faults.rig import ROOT
from soak.faults import live
from soak.inference import soak


def main() -> None:
    """Runs the soak, prints the result, and exits with 1 if memory or age grew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--minutes", type=float, help="a whole node, with faults, for so long")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    if arguments.minutes:
        sys.exit(not _lived(arguments.minutes, arguments.json))
    soaked = soak(arguments.frames, arguments.seconds)
    if arguments.json:
        print(json.dumps(asdict(soaked) | {"flat": soaked.flat}))
    else:
        for key, value in asdict(soaked).items():
            print(f"{key}: {value}")
    sys.exit(not soaked.flat)


def _lived(minutes: float, as_json: bool) -> bool:
    os.environ.setdefault("PYTHONPATH", str(ROOT))
    lived = live(minutes * 60)
    if as_json:
        print(json.dumps(asdict(lived) | {"flat": lived.flat}))
        return lived.flat
    print(f"{lived.faults} faults in {lived.seconds:.0f} s, back in {lived.longest_back_s:.2f} s")
    for slope in lived.slopes:
        print(
            f"{slope.name}: {slope.start:.1f} to {slope.end:.1f} {slope.unit}, "
            f"{slope.per_hour:+.1f} an hour"
        )
    print("flat" if lived.flat else "not flat")
    return lived.flat


if __name__ == "__main__":
    main()
