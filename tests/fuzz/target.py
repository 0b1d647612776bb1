"""What the fuzzing shoots at: the decoders of every model in models/, and the service around them."""

import asyncio
import math
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import httpx

from contract.errors import ConvokeError
from service.inference.repository import Version
from tests import reviews
from tests.fuzz.measure import measured
from tests.serving import parts

ROOT = Path(__file__).resolve().parents[2]

_BYTES_A_PIXEL = 24  # the most that decoding takes, WebP with transparency in the lead: some 20
_BYTES_BESIDE = 64 << 20  # tables and buffers, whatever the picture's size
_FAILURES_SHOWN = 20

Kind = Literal["image", "text"]


@dataclass(frozen=True)
class Input:
    """One thing to decode. Its number and the corpus's seed make it again."""

    number: int
    name: str
    kind: Kind
    data: bytes

    def __str__(self) -> str:
        return f"input {self.number}: {self.name} ({len(self.data)} bytes)"


@dataclass(frozen=True)
class Limits:
    """What one input may take: pixels, and processor seconds for one decoding of it."""

    max_pixels: int
    cpu_s: float

    @property
    def peak_bytes(self) -> int:
        return _BYTES_A_PIXEL * self.max_pixels + _BYTES_BESIDE


@dataclass
class Report:
    """What was tried and found."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "none")
    heaviest: tuple[int, str] = (0, "none")
    inputs: int = 0
    grown_bytes: int = 0

    def __str__(self) -> str:
        counts = "\n".join(f"  {count:>7,}  {outcome}" for outcome, count in sorted(self.outcomes.items()))
        shown = "\n".join(self.failures[:_FAILURES_SHOWN])
        return (
            f"{self.inputs:,} inputs\n{counts}\n"
            f"slowest: {self.slowest[0]:.2f} s of a processor, {self.slowest[1]}\n"
            f"heaviest: {self.heaviest[0] / 2**20:,.0f} MiB, {self.heaviest[1]}\n"
            f"memory held more than before: {self.grown_bytes / 2**20:,.1f} MiB\n"
            f"{len(self.failures)} failures\n{shown}"
        ).rstrip()


class Target:
    """The models of this checkout, and one of texts that is made for tests where none is there.

    Args:
        folder: an empty one, for the models.
        limits: the bounds that are checked.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        shutil.copytree(ROOT / "models", folder / "models")
        if not (folder / "models/reviews").exists():
            reviews.publish(folder / "models")
        served = parts(models=folder / "models", max_pixels=limits.max_pixels)
        self._limits = limits
        self._versions = served.repository.serving()
        self._predictor = served.predictor
        transport = httpx.ASGITransport(app=served.application, raise_app_exceptions=False)
        self._client = httpx.AsyncClient(transport=transport, base_url="http://test")
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.aclose())
        self._predictor.close()
        self._runner.close()

    def try_out(self, report: Report, one: Input) -> None:
        """Try one input in every decoder of its kind, and over HTTP on one model, and enter what is found."""
        report.inputs += 1
        for version in self._versions:
            if version.manifest.input.kind == one.kind:
                self._decode_within_limits(report, one, version)
        version = self._asked(one)
        try:
            report.outcomes[f"HTTP {self._runner.run(self._post(version, one))}"] += 1
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is what is looked for
            report.failures.append(f"{one}, HTTP, {version.name}: {error!r}")

    def _asked(self, one: Input) -> Version:
        """The model that is asked over HTTP: each in turn, one that takes such an input in nine of ten times."""
        fitting = [version for version in self._versions if version.manifest.input.kind == one.kind]
        chosen = fitting if one.number % 10 else self._versions
        return chosen[one.number // 10 % len(chosen)]

    def _decode_within_limits(self, report: Report, one: Input, version: Version) -> None:
        try:
            with measured() as cost:
                outcome = self.decoded(version, one)
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is what is looked for
            report.failures.append(f"{one}, {version.name}: {error!r}")
            return
        report.outcomes[f"{one.kind} {outcome}"] += 1
        report.slowest = max(report.slowest, (cost.cpu_s, str(one)))
        report.heaviest = max(report.heaviest, (cost.peak_bytes, str(one)))
        if cost.cpu_s > self._limits.cpu_s or cost.peak_bytes > self._limits.peak_bytes:
            report.failures.append(f"{one}, {version.name}: {cost}")

    async def _post(self, version: Version, one: Input) -> int:
        """The status that the service answers, once the answer is found to agree with the decoder."""
        headers = {"Content-Type": "text/plain"} if one.kind == "text" else {}
        response = await self._client.post(f"/classify/{version.name}", content=one.data, headers=headers)
        status, answer = response.status_code, response.json()
        if status == 200:
            assert self.decoded(version, one) == "read"
            (prediction,) = answer["predictions"]
            assert prediction["label"] in version.manifest.labels
            assert math.isclose(sum(prediction["scores"].values()), 1, abs_tol=1e-4)
        else:
            assert 400 <= status < 500, response.text
            code = answer["error"]["code"]
            if one.kind == version.manifest.input.kind == "image" and one.data:
                assert code == self.decoded(version, one)
        return status

    def decoded(self, version: Version, one: Input) -> str:
        """What a decoder makes of an input: `read`, or the code of an error below 500.

        Raises:
            AssertionError: an array that the graph does not take, or an error of ours.
        """
        spec = version.manifest.input
        try:
            decoded = version.preprocessor.decode(one.data)
            assert decoded.dtype == spec.dtype
            assert len(spec.split(decoded[None])) == 1
        except ConvokeError as error:
            if error.status not in range(400, 500) or not str(error):
                raise AssertionError(f"{error!r} is no fault of the caller's") from error
            return error.code
        return "read"
