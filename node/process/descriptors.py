"""Descriptors: the limit of open files and sockets of this process."""

import errno
import logging
import os
import resource

log = logging.getLogger(__name__)

MOST_DESCRIPTORS = 65536
"""Enough for every listener at its limit; a higher limit only enlarges tables of the kernel."""


def raise_descriptor_limit() -> int:
    """Raises the soft limit of open descriptors to the hard limit; returns the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= limit:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    except (OSError, ValueError) as error:
        log.warning("at most %d files can be open (%s)", soft, error)
        return soft
    return limit


def spare_descriptors() -> int:
    """Returns how many more descriptors this process may open for others. A quarter of the limit
    stays free: libzmq ends the process where it finds no descriptor for a connection by ipc."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    try:
        open_now = len(os.listdir("/proc/self/fd"))
    except OSError as error:
        # Without /proc the number is not known; without a descriptor to count them, none is left.
        open_now = limit if error.errno in (errno.EMFILE, errno.ENFILE) else 0
    return max(0, limit - limit // 4 - open_now)
