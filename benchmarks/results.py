"""The figures: one row for each contender, request format and workload, kept as JSON."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from contract import processors

CEILING = "ceiling"
_SETTINGS = ("seconds", "passes", "threads", "precision")
_PACKAGES = (
    "bentoml", "fastapi", "httptools", "litserve", "mlserver", "numpy", "onnxruntime", "onnxruntime-gpu", "pillow",
    "ray", "starlette", "tokenizers", "uvicorn", "uvloop",
)  # fmt: skip
_PRINT_VERSIONS = """
import json, sys
from importlib import metadata
versions = {}
for name in sys.argv[1:]:
    try:
        versions[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(versions))
"""


@dataclass(frozen=True)
class Row:
    """One contender under one workload.

    requests_per_s counts successful responses; p50, p99 and the slowest are over all responses. Of several passes each
    figure is the median, `errors` and `cpu_s` the sum, and the memory the largest; `passes` holds the requests per
    second of each. memory_mib is the peak of all processes together, largest_mib that of the largest one. `more` holds
    the figures of special workloads: `seconds` for "start", `percent` of one processor for "idle", and the counts and
    times of an overload.
    """

    contender: str
    name: str
    form: str
    workload: str
    requests_per_s: float = 0.0
    items_per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    errors: int = 0
    memory_mib: float = 0.0
    largest_mib: float = 0.0
    cpu_s: float = 0.0
    requests_per_cpu_s: float = 0.0
    slowest_ms: float = 0.0
    passes: Sequence[float] = field(default_factory=list)
    more: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies the row: contender, request format, workload."""
        return self.contender, self.form, self.workload

    @property
    def spread(self) -> float:
        """The range of the passes' requests per second, as a share of their median."""
        if len(self.passes) < 2 or not self.requests_per_s:  # noqa: PLR2004 -- passes that can differ
            return 0.0
        return (max(self.passes) - min(self.passes)) / self.requests_per_s

    def __str__(self) -> str:
        """The row on one line."""
        if self.requests_per_s or not self.more:
            figures = (
                f"{number(self.requests_per_s)} requests/s ± {self.spread / 2:.0%}, p50 {number(self.p50_ms)} ms, "
                f"p99 {number(self.p99_ms)} ms, slowest {number(self.slowest_ms)} ms, {self.errors} errors"
            )
        else:
            figures = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in self.more.items())
        return f"{self.name}, {self.form}, {self.workload}: {figures}"


class Record:
    """All rows of a run and its settings, saved after each row, so that an interrupted run loses none."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self._path = path
        self.about = dict(about)
        self.about["loops_per_s"] = dict[str, float]()
        self.rows: list[Row] = []
        self.failures: dict[str, str] = {}
        self.skipped: dict[str, str] = {}

    def resume(self) -> None:
        """Load the rows of an existing file, if it was measured with the same settings."""
        if not self._path.exists():
            return
        content = json.loads(self._path.read_text(encoding="utf-8"))
        if all(content["about"].get(name) == self.about.get(name) for name in _SETTINGS):
            self.rows = [Row(**row) for row in content["rows"]]

    def has(self, contender: str, form: str, workload: str) -> bool:
        """Whether a row exists."""
        return find(self.rows, contender, workload, form) is not None

    def add(self, row: Row) -> None:
        """Add a row and save."""
        self.rows.append(row)
        self.save()

    def fail(self, contender: str, reason: str) -> None:
        """Record why a contender could not be measured, and save."""
        self.failures[contender] = reason
        self.save()

    def skip(self, contender: str, reason: str) -> None:
        """Record why a contender cannot run on this machine, and save."""
        self.skipped[contender] = reason
        self.save()

    def save(self) -> None:
        """Write the file atomically."""
        reasons = {"failures": self.failures, "skipped": self.skipped}
        content = {"about": self.about, **reasons, "rows": [asdict(row) for row in self.rows]}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".part")
        new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        new.replace(self._path)


def find(rows: Iterable[Row], contender: str, workload: str, form: str | None = None) -> Row | None:
    """A contender's row, in any request format if none is given."""
    matches = (row for row in rows if row.contender == contender and row.workload == workload)
    return next((row for row in matches if form in {None, row.form}), None)


def best_ceiling(rows: Iterable[Row], family: str | None) -> Row | None:
    """The fastest loop without HTTP over a family's items."""
    loops = [row for row in rows if row.contender == CEILING and row.workload == family]
    return max(loops, key=lambda row: row.items_per_s, default=None)


def number(value: float) -> str:
    """A figure with three significant digits, or with all its whole digits from 100."""
    if value >= 100:  # noqa: PLR2004
        return f"{value:,.0f}"
    return f"{value:.3g}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> list[str]:
    """Lines of a Markdown table; columns after the first `text_columns` are aligned to the right."""
    alignment = ["---"] * text_columns + ["--:"] * (len(header) - text_columns)
    return [f"| {' | '.join(cells)} |" for cells in (header, alignment, *rows)]


def percentile_ms(seconds: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of durations, in milliseconds; 0 without durations."""
    if not seconds:
        return 0.0
    return sorted(seconds)[min(int(len(seconds) * percent / 100), len(seconds) - 1)] * 1000


def machine(pythons: Mapping[str, Path]) -> dict[str, Any]:
    """What the figures depend on: processors, load, Python and package versions; nothing that identifies the owner."""
    versions = {
        name: json.loads(
            subprocess.run(
                [str(python), "-c", _PRINT_VERSIONS, *_PACKAGES], capture_output=True, text=True, check=True
            ).stdout
        )
        for name, python in pythons.items()
    }
    return {
        "cpu": _cpu(),
        "processors": processors.count(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": versions,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
