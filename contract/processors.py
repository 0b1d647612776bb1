"""How many processors and how much memory this process may use, within its affinity and the limits of its cgroups.

A container with a quota of one processor sees all of the machine's; threads for all of them would only wait for
each other.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath


def count(root: Path = Path("/")) -> int:
    """The processors that this process may use, at least 1.

    Args:
        root: the folder that has `proc` and `sys`, for tests.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min([available, *(math.ceil(quota) for quota in _quotas(root))]), 1)


def free_bytes(root: Path = Path("/")) -> int:
    """The memory that this process and its children may still use.

    Args:
        root: as for `count`.
    """
    free = [math.inf]
    for line in _read(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            free.append(int(value.split()[0]) * 1024)
    for folder in _folders(root, "memory"):
        for limit, usage in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            values = _read(folder / limit).strip(), _read(folder / usage).strip()
            if all(value.isdecimal() for value in values):
                free.append(int(values[0]) - int(values[1]))
    least = min(free)
    return 1 << 62 if math.isinf(least) else max(int(least), 0)


def _quotas(root: Path) -> Iterator[float]:
    """The quotas, in processors, of this process's cgroups and of those above them."""
    for folder in _folders(root, "cpu"):
        yield from _quota(folder)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's cgroups that can limit a resource, and of those above them."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        mounts = (f"sys/fs/cgroup/{controller}",) if controllers else ("sys/fs/cgroup", "sys/fs/cgroup/unified")
        for mount in mounts:
            path = PurePosixPath(group.lstrip("/"))
            for part in (path, *path.parents):
                yield root / mount / part


def _quota(folder: Path) -> Iterator[float]:
    """The quota of one cgroup, if it has one: of version 2, or of version 1."""
    match _read(folder / "cpu.max").split():
        case [quota, period]:
            pass
        case _:
            quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
    if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
        yield int(quota) / int(period)


def _read(path: Path) -> str:
    """The text of a file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
