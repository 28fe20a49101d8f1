"""The receiving half of scripts/demo: a control loop that reads the labels twice a second."""

import argparse
import sys
import time

from perception_client.subscriber import Status, Subscriber

FIRST_LABEL_WITHIN_S = 60.0
LOOK_EVERY_S = 0.5
MAX_AGE_S = 0.5


def main() -> int:
    """Prints labels with their age; returns 1 when none arrived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("endpoint")
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()

    with Subscriber(arguments.endpoint) as subscriber:
        started = time.monotonic()
        end = None
        labelled = 0
        while end is None or time.monotonic() < end:
            message = subscriber.latest(MAX_AGE_S, timeout_s=LOOK_EVERY_S)
            if message is not None and message.status is Status.OK and message.best:
                end = end or time.monotonic() + arguments.seconds
                labelled += 1
                age_ms = message.age_s * 1000
                print(
                    f"frame {message.frame_id:4d}  {message.best.name:<12} "
                    f"{message.best.score:.2f}   {age_ms:3.0f} ms old",
                    flush=True,
                )
                time.sleep(LOOK_EVERY_S)  # a control loop's own period
            elif end is None and time.monotonic() - started > FIRST_LABEL_WITHIN_S:
                print(f"no label within {FIRST_LABEL_WITHIN_S:.0f} s", file=sys.stderr)
                return 1
    return 0 if labelled else 1


if __name__ == "__main__":
    sys.exit(main())
