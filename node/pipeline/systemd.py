"""Systemd: notifies systemd that the node is ready and alive (sd_notify(3)).

A notification is a datagram to the socket in NOTIFY_SOCKET; without that variable nothing is sent.
"""

import contextlib
import os
import socket
import time


class Systemd:
    """Used by one thread. Call `alive` only while the node works: systemd restarts a node that
    stops calling it."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET")
        period_us = os.environ.get("WATCHDOG_USEC", "")
        own = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        # Twice in each period, as sd_watchdog_enabled(3) advises.
        self._period_s = int(period_us) / 2e6 if period_us.isdigit() and own else None
        self._ready = False
        self._fed_at = 0.0
        # Opened now: a healthy node without free descriptors could not notify later.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def ready(self) -> None:
        """Notifies that the model is loaded and capture has started. Once."""
        if not self._ready:
            self._ready = True
            self._notify("READY=1")

    def alive(self, status: str) -> None:
        """Feeds the watchdog, where systemd has one. status: in words, for `systemctl status`."""
        now = time.monotonic()
        if self._period_s is not None and now - self._fed_at >= min(self._period_s, 1.0):
            self._fed_at = now
            self._notify(f"WATCHDOG=1\nSTATUS={status}")

    def stopping(self) -> None:
        """Notifies that the node stops by itself. The last notification."""
        self._notify("STOPPING=1")
        self._socket.close()

    def _notify(self, text: str) -> None:
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):  # Linux's abstract namespace
            address = "\0" + address[1:]
        with contextlib.suppress(OSError):  # the node goes on without its supervisor
            self._socket.sendto(text.encode(), address)
