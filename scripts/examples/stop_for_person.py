"""Drives, but stops for a person who is near, and whenever the labels do not exclude one.

python scripts/examples/stop_for_person.py [ENDPOINT], beside a node with a detector. Where the
node has several cameras, name the one that looks ahead: Subscriber(endpoint, camera="front").
"""

import sys
import time

from perception_client import NotUsableError, Subscriber

NEAR = 0.6  # of the picture's height
MAX_AGE_S = 0.3  # what is older says nothing about now
CLEAR_S = 0.5  # for so long nobody must be near: a detector misses a person now and then


def reason_to_stop(labels: Subscriber) -> str | None:
    try:
        seen = labels.require(MAX_AGE_S)
    except NotUsableError as error:  # gone, cannot see, not looking, too old
        return str(error)
    if seen.model is None or seen.model.task != "detect" or seen.image is None:
        return "the model does not look for persons"
    near = any(person.box.h > NEAR * seen.image.height for person in seen.of_class("person"))
    return "a person is near" if near else None


with Subscriber(*sys.argv[1:2]) as labels:
    driving, why, stopped_s = None, "", time.monotonic()
    while True:
        labels.wait(0.05)  # for a new message, and no longer than a command may take
        if reason := reason_to_stop(labels):
            why, stopped_s = reason, time.monotonic()
        clear = time.monotonic() - stopped_s > CLEAR_S
        if clear is not driving:
            print("drive 0.5 m/s" if clear else f"stop: {why}", flush=True)
        driving = clear
