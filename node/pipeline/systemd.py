"""Systemd: tells systemd that the node is ready, and that it lives (sd_notify(3)).

A datagram to the socket that NOTIFY_SOCKET names; without that nobody is told.
"""

import contextlib
import os
import socket
import time


class Systemd:
    """Used by one thread. Feed it only while all is well: systemd restarts a node that stops."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET")
        period_us = os.environ.get("WATCHDOG_USEC", "")
        own = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        # Twice in each period, as sd_watchdog_enabled(3) advises.
        self._period_s = int(period_us) / 2e6 if period_us.isdigit() and own else None
        self._ready = False
        self._fed_at = 0.0
        # Now: later there may be no descriptor left, and a node that is well would not say so.
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def ready(self) -> None:
        """The model is loaded and the cameras are being read."""
        if not self._ready:
            self._ready = True
            self._tell("READY=1")

    def alive(self, status: str) -> None:
        """Feeds the watchdog where one waits. status: in words, for `systemctl status`."""
        now = time.monotonic()
        if self._period_s is not None and now - self._fed_at >= min(self._period_s, 1.0):
            self._fed_at = now
            self._tell(f"WATCHDOG=1\nSTATUS={status}")

    def stopping(self) -> None:
        """The node goes by itself. Nothing is told after that."""
        self._tell("STOPPING=1")
        self._notify.close()

    def _tell(self, what: str) -> None:
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):  # Linux's abstract namespace
            address = "\0" + address[1:]
        with contextlib.suppress(OSError):  # a supervisor that has gone changes nothing here
            self._notify.sendto(what.encode(), address)
