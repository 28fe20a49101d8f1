"""Owner: which thread of which process may use a connection. A ZeroMQ socket that two threads use
at once, or that a forked process uses, ends the process by an assertion in libzmq; Owner raises an
error of the library before it comes to that. Needs the standard library only."""

import os
import threading

from perception_client.errors import ClosedError, ForkedError, WrongThreadError


class Owner:
    """Belongs to one connection. The first call that uses the connection decides whose it is, so a
    program may make a subscriber in one thread and read it in another. Once the owning thread has
    ended, another one may take over.

    name: of the connection, for the texts of errors.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._process = os.getpid()
        self._thread: threading.Thread | None = None
        self._loop: object | None = None
        self.closed = False

    def check(self, loop: object | None = None) -> None:
        """Before each use. loop: the running event loop, for asyncio.

        Raises ClosedError, ForkedError, WrongThreadError.
        """
        if self.closed:
            raise ClosedError(f"{self._name}: closed", fix="make a new one")
        if self.forked:
            raise ForkedError(
                f"{self._name}: made before this process was forked",
                fix="make a new one in this process",
            )
        self._check_thread()
        if loop is not None:
            if self._loop is None:
                self._loop = loop
            elif self._loop is not loop:
                raise WrongThreadError(
                    f"{self._name}: belongs to another event loop",
                    fix="make one in each event loop",
                )

    def close(self) -> bool:
        """Whether the caller has to close the sockets: not twice, and not in a forked process,
        which must not touch them. Raises WrongThreadError while another thread uses them."""
        if self.closed or self.forked:
            self.closed = True
            return False
        self._check_thread()
        self.closed = True
        return True

    @property
    def forked(self) -> bool:
        """Whether this process is not the one that made the connection."""
        return os.getpid() != self._process

    def _check_thread(self) -> None:
        current = threading.current_thread()
        if self._thread is current:
            return
        if self._thread is None or not self._thread.is_alive():
            self._thread = current
            return
        raise WrongThreadError(
            f"{self._name}: belongs to thread {self._thread.name!r}, and is called from thread "
            f"{current.name!r}",
            fix="make one in each thread",
        )
