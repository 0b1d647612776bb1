"""Figures: one row a contender, form and workload; kept as JSON, printed as tables of ratios to Convoke."""

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

CEILING = "ceiling"
_WORDS = ("seconds", "threads", "precision")
PACKAGES = (
    "bentoml", "fastapi", "httptools", "litserve", "mlserver", "numpy", "onnxruntime", "onnxruntime-gpu", "pillow",
    "ray", "starlette", "tokenizers", "uvicorn", "uvloop",
)  # fmt: skip
_VERSIONS = """
import json, sys
from importlib import metadata
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Row:
    """One contender under one workload.

    requests_per_s counts good answers; p50 and p99 are over all answers. Memory is the peak of all its processes, and
    of the largest. `more` holds what a workload alone has: of `start` seconds, of `idle` the share of one processor, of
    an overload what became of its requests.
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
    cpu_s_per_1000: float = 0.0
    more: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is a row of."""
        return self.contender, self.form, self.workload

    def told(self) -> str:
        """The row on one line, for whoever waits."""
        what = f"{self.name}, {self.form}, {self.workload}:"
        if self.requests_per_s or not self.more:
            return (
                f"{what} {number(self.requests_per_s)} requests/s, p50 {number(self.p50_ms)} ms, "
                f"p99 {number(self.p99_ms)} ms, {self.errors} errors"
            )
        return f"{what} {', '.join(f'{name} {value:g}' for name, value in self.more.items())}"


class Record:
    """All rows of a run, and what they ran on; written anew after each, so that a run that is stopped loses none."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self._path = path
        self.about = dict(about)
        self.about["loops_per_s"] = dict[str, float]()
        self.rows: list[Row] = []
        self.failures: dict[str, str] = {}

    def resume(self) -> None:
        """Take over the rows of a file that is there, if it was made with the same words."""
        if not self._path.exists():
            return
        content = json.loads(self._path.read_text(encoding="utf-8"))
        if all(content["about"].get(name) == self.about.get(name) for name in _WORDS):
            self.rows = [Row(**row) for row in content["rows"]]

    def has(self, contender: str, form: str, workload: str) -> bool:
        """Whether there is such a row."""
        return any(row.key == (contender, form, workload) for row in self.rows)

    def find(self, contender: str, workload: str, form: str | None = None) -> Row | None:
        """A contender's row, of its first form where none is named."""
        rows = (row for row in self.rows if row.contender == contender and row.workload == workload)
        return next((row for row in rows if form in {None, row.form}), None)

    def add(self, row: Row) -> None:
        """Keep a row."""
        self.rows.append(row)
        self.save()

    def fail(self, contender: str, reason: str) -> None:
        """Note that a contender could not be measured further."""
        self.failures[contender] = reason
        self.save()

    def save(self) -> None:
        """Write everything, in one step."""
        content = {"about": self.about, "failures": self.failures, "rows": [asdict(row) for row in self.rows]}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_suffix(".part")
        new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        new.replace(self._path)


def best_ceiling(rows: Iterable[Row], family: str) -> Row | None:
    """The fastest loop without HTTP over a family's items."""
    found = [row for row in rows if row.contender == CEILING and row.workload == family]
    return max(found, key=lambda row: row.items_per_s, default=None)


def number(value: float) -> str:
    """A figure to three digits, more where it is large."""
    if value >= 100:  # noqa: PLR2004
        return f"{value:,.0f}"
    return f"{value:.3g}"


def machine(pythons: Mapping[str, Path]) -> dict[str, Any]:
    """What the figures depend on; nothing that says whose machine it is."""
    versions = {
        name: json.loads(
            subprocess.run([str(python), "-c", _VERSIONS, *PACKAGES], capture_output=True, text=True, check=True).stdout
        )
        for name, python in pythons.items()
    }
    return {
        "cpu": _cpu(),
        "processors": os.cpu_count(),
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
