"""The limit of open files of this process (`ulimit -n`), which bounds its connections."""

import resource

RESERVED = 96
"""Files that a worker opens besides its connections: libraries, models, the log, and connections that are refused."""


def raise_limit(connections: int) -> None:
    """Raise the soft limit of open files towards the hard one, as far as that many connections need it.

    Processes that this one starts inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + RESERVED
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def fit(connections: int) -> int:
    """How many of these connections the soft limit of open files allows: at least 1."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return connections if soft == resource.RLIM_INFINITY else max(min(connections, soft - RESERVED), 1)
