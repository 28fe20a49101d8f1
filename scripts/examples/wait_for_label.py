"""Waits until a label is seen: exit code 0 when it was, 1 when not in time.

python scripts/examples/wait_for_label.py [ENDPOINT] [LABEL] [SECONDS]
"""

import sys

from perception_client import ClientError, NotSeenError, Subscriber

endpoint = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:5570"
name = sys.argv[2] if len(sys.argv) > 2 else "espresso"
seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 30.0

with Subscriber(endpoint) as labels:
    try:
        message = labels.wait_for(name, timeout_s=seconds, min_score=0.5)
    except NotSeenError:
        sys.exit(f"{name} was not seen in {seconds:g} s")
    except ClientError as error:  # no node, no such class: not the same as not having seen it
        sys.exit(f"cannot tell: {error}")
    print(f"{name} seen by {message.camera}, {message.age_s * 1000:.0f} ms ago")
