"""Descriptors: how many files and sockets this process may have open."""

import logging
import resource

log = logging.getLogger(__name__)

MOST_DESCRIPTORS = 65536
"""Enough for every listener at its limit; more would only make the kernel's tables larger."""


def raise_descriptor_limit() -> int:
    """Raises the soft limit of open descriptors to the hard one; the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError) as error:
        log.warning("at most %d files can be open (%s)", soft, error)
        return soft
    return wanted
