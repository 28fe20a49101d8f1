"""Turns towards an object and follows it; stops when it is lost, or when the labels do not say.

python scripts/examples/follow_target.py [ENDPOINT] [CLASS], beside a node with a detector and
track.enabled = true.
"""

import sys
import time

from perception_client import NotUsableError, Subscriber

TURN_RAD_S = 1.0  # for a thing at the picture's edge; positive is to the left, as in ROS
MAX_AGE_S = 0.3  # what is older says nothing about now
LOST_S = 1.0  # a thing that is not seen for so long is given up for another

endpoint = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5570"
name = sys.argv[2] if len(sys.argv) > 2 else "person"

with Subscriber(endpoint) as labels:
    followed, seen_s = None, 0.0
    while True:
        labels.wait(0.05)  # for a new message, and no longer than a command may take
        try:
            seen = labels.require(MAX_AGE_S)
        except NotUsableError as error:  # gone, cannot see, not looking, too old
            followed = None
            print(f"stop: {error}", flush=True)
            continue
        target = seen.track(followed) if followed is not None else seen.largest(name)
        if target is not None and target.track is not None:
            followed, seen_s = target.track, time.monotonic()
            offset = target.box.cx / seen.image.width - 0.5  # to the right of the centre
            print(f"follow #{followed}: turn {-2 * offset * TURN_RAD_S:+.2f} rad/s", flush=True)
        elif followed is None or time.monotonic() - seen_s > LOST_S:
            followed = None
            print(f"stop: no {name} is followed", flush=True)
