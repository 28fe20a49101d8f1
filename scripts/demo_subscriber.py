"""The receiving half of scripts/demo: prints labels at the moment of their arrival."""

import argparse
import sys
import time

from perception_client import NoMessageError, Status, Subscriber

FIRST_LABEL_WITHIN_S = 60.0
PRINT_EVERY_S = 0.5


def main() -> int:
    """Prints labels with their age; returns 1 when none arrived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("endpoint")
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()

    with Subscriber(arguments.endpoint) as subscriber:
        end = time.monotonic() + FIRST_LABEL_WITHIN_S
        due = 0.0
        while (now := time.monotonic()) < end:
            try:
                message, _ = subscriber.receive(end - now)
            except NoMessageError:
                break
            if message.status is not Status.OK or message.best is None or time.monotonic() < due:
                continue
            if not due:
                end = time.monotonic() + arguments.seconds
            # Printed at once: the age is that of the message, not of a wait in this loop.
            print(
                f"frame {message.frame_id:4d}  {message.best.name:<12} {message.best.score:.2f}"
                f"   {message.age_s * 1000:3.0f} ms old",
                flush=True,
            )
            due = time.monotonic() + PRINT_EVERY_S
    if not due:
        print(f"no label within {FIRST_LABEL_WITHIN_S:.0f} s", file=sys.stderr)
    return 0 if due else 1


if __name__ == "__main__":
    sys.exit(main())
