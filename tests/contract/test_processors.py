"""How many processors a process may use."""

import os
from pathlib import Path

import pytest

from contract import processors


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 64 processors, of which this process may use 8."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)))


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/", {}, 8),
        ("0::/", {"sys/fs/cgroup/cpu.max": "max 100000"}, 8),
        ("0::/", {"sys/fs/cgroup/cpu.max": "100000 100000"}, 1),
        ("0::/", {"sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
        ("0::/", {"sys/fs/cgroup/cpu.max": "10000 100000"}, 1),
        ("0::/", {"sys/fs/cgroup/cpu.max": "9900000 100000"}, 8),
        ("0::/a/b", {"sys/fs/cgroup/a/cpu.max": "300000 100000", "sys/fs/cgroup/a/b/cpu.max": "max 100000"}, 3),
        ("0::/../x", {"sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        ("4:cpu,cpuacct:/", {"cpu.cfs_quota_us": "200000", "cpu.cfs_period_us": "100000"}, 2),
        ("4:cpuacct,cpu:/d", {"cpu.cfs_quota_us": "200000", "cpu.cfs_period_us": "100000"}, 2),
        ("4:cpu,cpuacct:/", {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}, 8),
        ("2:memory:/\n0::/", {"sys/fs/cgroup/cpu.max": "nonsense"}, 8),
    ],
)
def test_affinity_and_quota_limit_the_processors(
    tmp_path: Path, group: str, files: dict[str, str], expected: int
) -> None:
    """The least of affinity and the quotas of the process's cgroups and of those above them, of both versions."""
    for name, text in {"proc/self/cgroup": group, **files}.items():
        path = tmp_path / (name if "/" in name else f"sys/fs/cgroup/cpu/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert processors.count(tmp_path) == expected


def test_without_affinity_the_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems without affinity, such as macOS, count the machine's processors."""
    monkeypatch.delattr(os, "sched_getaffinity")
    assert processors.count(tmp_path) == 64


@pytest.mark.parametrize(
    ("group", "files", "expected"),
    [
        ("0::/", {}, 1 << 62),
        ("0::/", {"proc/meminfo": "MemTotal: 9 kB\nMemAvailable:    4 kB\n"}, 4096),
        ("0::/a", {"sys/fs/cgroup/a/memory.max": "5000", "sys/fs/cgroup/a/memory.current": "1000"}, 4000),
        ("0::/a", {"sys/fs/cgroup/a/memory.max": "max", "sys/fs/cgroup/a/memory.current": "1000"}, 1 << 62),
        ("0::/a", {"sys/fs/cgroup/memory.max": "500", "sys/fs/cgroup/memory.current": "1000"}, 0),
        (
            "5:memory:/",
            {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "7000",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1000",
            },
            6000,
        ),
    ],
)
def test_limits_of_cgroups_are_limits_of_memory(
    tmp_path: Path, group: str, files: dict[str, str], expected: int
) -> None:
    """The least of what the machine has and what the process's cgroups leave."""
    for name, text in {"proc/self/cgroup": group, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert processors.free_bytes(tmp_path) == expected
