"""Descriptors: the limit of open files and sockets of this process."""

import logging
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
