"""The code under fuzzing: the decoders of every model in models/, and the service that uses them."""

import asyncio
import math
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import httpx

from contract.errors import ConvokeError
from service.http import charset
from service.inference.version import Version
from tests import reviews
from tests.fuzz.measure import measured
from tests.serving import ROOT, parts

_BYTES_PER_PIXEL = 24  # decoding takes at most some 20, for a WebP with transparency
_BASE_BYTES = 64 << 20  # tables and buffers, for an image of any size
_FAILURES_SHOWN = 20

Kind = Literal["image", "text"]


@dataclass(frozen=True)
class Input:
    """One file or text to decode; its number and the corpus's seed reproduce it."""

    number: int
    name: str
    kind: Kind
    data: bytes

    def __str__(self) -> str:
        return f"input {self.number}: {self.name} ({len(self.data)} bytes)"


@dataclass(frozen=True)
class Limits:
    """The limits of one input: pixels, and CPU seconds for decoding it once."""

    max_pixels: int
    cpu_s: float

    @property
    def peak_bytes(self) -> int:
        return _BYTES_PER_PIXEL * self.max_pixels + _BASE_BYTES


@dataclass
class Report:
    """Counts of outcomes, failures, and the slowest and the largest input."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "none")
    largest: tuple[int, str] = (0, "none")
    inputs: int = 0
    growth_bytes: int = 0

    def __str__(self) -> str:
        counts = "\n".join(f"  {count:>7,}  {outcome}" for outcome, count in sorted(self.outcomes.items()))
        failures = "\n".join(self.failures[:_FAILURES_SHOWN])
        return (
            f"{self.inputs:,} inputs\n{counts}\n"
            f"most CPU time: {self.slowest[0]:.2f} s, {self.slowest[1]}\n"
            f"most memory: {self.largest[0] / 2**20:,.0f} MiB, {self.largest[1]}\n"
            f"growth of memory over all inputs: {self.growth_bytes / 2**20:,.1f} MiB\n"
            f"{len(self.failures)} failures\n{failures}"
        ).rstrip()


class Target:
    """The models of this checkout, and a small model of texts if the checkout has none named `reviews`.

    Args:
        folder: an empty folder for the models.
        limits: the limits to check.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        shutil.copytree(ROOT / "models", folder / "models")
        if not (folder / "models/reviews").exists():
            reviews.publish(folder / "models")
        self._limits = limits
        self._parts = parts(models=folder / "models", max_pixels=limits.max_pixels)
        self._versions = self._parts.repository.serving()
        transport = httpx.ASGITransport(app=self._parts.application, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://test")
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.aclose())
        self._parts.predictor.close()
        self._runner.close()

    def check(self, report: Report, item: Input) -> None:
        """Decode an input with every model of its kind, send it to one model over HTTP, and report the outcomes."""
        report.inputs += 1
        for version in self._versions:
            if version.manifest.input.kind == item.kind:
                self._decode_within_limits(report, item, version)
        version = self._version_for(item)
        try:
            report.outcomes[f"HTTP {self._runner.run(self._post(version, item))}"] += 1
        except Exception as error:  # noqa: BLE001 -- any exception is a failure
            report.failures.append(f"{item}, HTTP, {version.name}: {error!r}")

    def _version_for(self, item: Input) -> Version:
        """The model for the HTTP request: each in turn, in nine of ten cases a model of the input's kind."""
        matching = [version for version in self._versions if version.manifest.input.kind == item.kind]
        candidates = matching if item.number % 10 else self._versions
        return candidates[item.number // 10 % len(candidates)]

    def _decode_within_limits(self, report: Report, item: Input, version: Version) -> None:
        try:
            with measured() as cost:
                outcome = self._decode(version, item)
        except Exception as error:  # noqa: BLE001 -- any exception is a failure
            report.failures.append(f"{item}, {version.name}: {error!r}")
            return
        report.outcomes[f"{item.kind} {outcome}"] += 1
        report.slowest = max(report.slowest, (cost.cpu_s, str(item)))
        report.largest = max(report.largest, (cost.peak_bytes, str(item)))
        if cost.cpu_s > self._limits.cpu_s or cost.peak_bytes > self._limits.peak_bytes:
            report.failures.append(f"{item}, {version.name}: {cost}")

    async def _post(self, version: Version, item: Input) -> int:
        """The status of the service's response, once the response agrees with the decoder."""
        headers = {"Content-Type": "text/plain"} if item.kind == "text" else {}
        response = await self._client.post(f"/classify/{version.name}", content=item.data, headers=headers)
        status, content = response.status_code, response.json()
        if status == 200:
            assert self._decode(version, item) == "read"
            (prediction,) = content["predictions"]
            assert prediction["label"] in version.manifest.labels
            assert math.isclose(sum(prediction["scores"].values()), 1, abs_tol=1e-4)
        else:
            assert 400 <= status < 500, response.text
            code = content["error"]["code"]
            if item.kind == version.manifest.input.kind == "image" and item.data:
                assert code == self._decode(version, item)
        return status

    def _decode(self, version: Version, item: Input) -> str:
        """The outcome of decoding an input: `read`, or the code of an error below 500.

        Raises:
            AssertionError: an array that the graph does not accept, or a server error.
        """
        spec = version.manifest.input
        try:
            # In JSON, a text may contain lone surrogates; here they stand for invalid bytes.
            data: bytes | str = item.data
            if spec.is_text:
                text = charset.decode(item.data, "")
                data = text.decode("utf-8-sig", "surrogateescape") if isinstance(text, bytes) else text
            decoded = version.preprocessor.decode(data)
            assert decoded.dtype == spec.dtype
            assert len(spec.split(decoded[None])) == 1  # checks shape and values
        except ConvokeError as error:
            if error.status not in range(400, 500) or not str(error):
                raise AssertionError(f"{error!r} is not a client error") from error
            return error.code
        return "read"
