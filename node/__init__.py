"""A realtime perception node for robots: camera frames in, labels out over ZeroMQ.

This package imports nothing by itself, so that control code can import `node.client` on a computer
that has pyzmq and msgpack only.
"""

__version__ = "0.1.0"
