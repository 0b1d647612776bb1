"""Feedback: the right labels of items that were classified, kept in files that `training new` takes as a data set.

    FEEDBACK_DIR/MODEL/LABEL/ID.png     the item as it was sent; of a text ID.txt, in UTF-8
    FEEDBACK_DIR/MODEL/LABEL/ID.json    one line: the answer, the right label, version and time

Each worker keeps the items of its recent requests in memory. A worker that receives feedback about a request of
another one leaves a claim in FEEDBACK_DIR/.claims, which the other one answers, also in another container with the same
folder. Without feedback nothing is written.
"""

import asyncio
import hashlib
import json
import os
import re
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from contract.errors import ConvokeError
from service.errors import FeedbackFull, InvalidRequest, Overloaded, RequestNotFound
from service.inference.decoding import Item
from service.inference.predictor import Answer, Row
from service.inference.version import Version
from service.settings import Settings
from service.telemetry.metrics import Metrics

Result = TypeVar("Result")

CLAIM_S, POLL_S = 1.5, 0.2
"""Seconds that feedback waits for the worker that answered the request, and between two looks for such claims."""

_ITEM_BYTES = 1000  # of memory beside an item's content, rounded up
_SIZE_S = 5.0  # between two measurements of the folder
_STALE_S = 60.0  # after which the files of a claim are left over
_MAX_WAITING = 16
_CLAIMS = ".claims"
_PLAIN = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_UNSAFE = re.compile(r"[^A-Za-z0-9-]")
_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}
_TIFF = "tif"


class Kept(BaseModel):
    """What was kept, with the answer of the model."""

    model_config = ConfigDict(frozen=True)

    id: str
    item: int
    """Its place in the request, from 0."""
    model: str
    version: str
    label: str
    """The right one."""
    answer: str
    score: float
    is_correct: bool
    """Whether the answer was right."""
    file: str
    """Where the item is, below the folder of feedback."""
    time: str


@dataclass
class _Recent:
    """A request that was answered."""

    version: Version
    items: Sequence[Item]
    rows: Sequence[Row | ConvokeError]
    size_bytes: int
    kept: dict[int, Kept] = field(default_factory=dict)


class Feedback:
    """The feedback of one worker, to be used on its event loop."""

    def __init__(self, folder: Path, settings: Settings, metrics: Metrics) -> None:
        """Keep nothing yet.

        Args:
            folder: where to keep feedback; it is made.
            settings: the limits.
            metrics: counts right and wrong answers.

        Raises:
            OSError: the folder cannot be made.
        """
        self._folder = folder
        self._claims = folder / _CLAIMS
        self._claims.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._max_bytes, self._max_recent_bytes = settings.feedback_bytes, settings.feedback_recent_bytes
        self._metrics = metrics
        self._recent: OrderedDict[str, _Recent] = OrderedDict()
        self._recent_bytes = 0
        self._size_bytes, self._measured_s = 0, float("-inf")
        self._waiting = 0
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "feedback")

    def remember(self, request_id: str, items: Sequence[Item], answer: Answer) -> None:
        """Keep the items of a request in memory, and forget the oldest ones above the limit."""
        size_bytes = sum(len(item) + _ITEM_BYTES for item in items if isinstance(item, bytes | str))
        if size_bytes > self._max_recent_bytes:
            return
        with self._lock:
            self._forget(request_id)
            self._recent[request_id] = _Recent(answer.version, items, answer.rows, size_bytes)
            self._recent_bytes += size_bytes
            while self._recent_bytes > self._max_recent_bytes:
                self._forget(next(iter(self._recent)))

    async def keep(self, request_id: str, label: str, place: int | None) -> Kept:
        """Keep an item of a request of any worker with its right label; waits up to `CLAIM_S` for another worker.

        Args:
            request_id: of the request.
            label: the right label.
            place: the place of the item in the request, from 0; None for its only item.

        Raises:
            RequestNotFound: no worker remembers the request.
            InvalidRequest: the model does not have the label, or the request not the item.
            FeedbackFull: the folder is full.
            Overloaded: too many requests wait for other workers.
        """
        kept = await self._run(self._keep, request_id, label, place)
        if kept is not None:
            return kept
        if self._waiting >= _MAX_WAITING:
            raise Overloaded(f"{self._waiting} requests wait for feedback to be kept (maximum {_MAX_WAITING})", CLAIM_S)
        self._waiting += 1
        try:
            answer = await self._claim(json.dumps({"id": request_id, "label": label, "item": place}).encode())
        finally:
            self._waiting -= 1
        if answer is None:
            raise RequestNotFound(
                f"no recent request has the id {request_id!r}; send the X-Request-ID of a response of "
                "POST /classify/{model}, soon after it"
            )
        if "error" in answer:
            raise _ERRORS[answer["error"]](answer["message"])
        return Kept(**answer)

    async def delete(self, request_id: str) -> int:
        """Delete all that was kept of a request, and forget it; returns how many items were kept."""
        return await self._run(self._delete, request_id)

    async def watch(self) -> None:
        """Answer the claims of other workers, without end."""
        while True:
            await asyncio.sleep(POLL_S)
            await self._run(self._answer_claims)

    async def _run(self, work: Callable[..., Result], *args: Any) -> Result:
        """Work with files in the only thread for them, which never makes other work of the service wait."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    async def _claim(self, content: bytes) -> dict[str, Any] | None:
        """What the worker answers that remembers a request; None if no worker does."""
        claim = self._claims / f"{os.urandom(12).hex()}.claim"
        await self._run(_write, claim, content)
        for poll in count():
            await asyncio.sleep(POLL_S / 4)
            answer = await self._run(_read_and_remove, claim.with_suffix(".done"))
            if answer is not None:
                return answer
            waited_s = poll * POLL_S / 4
            if waited_s > CLAIM_S and (await self._run(_remove, claim) or waited_s > 2 * CLAIM_S):
                break
        return None

    def _answer_claims(self) -> None:
        with suppress(OSError):
            for path in list(self._claims.iterdir()):
                with suppress(OSError, ValueError, KeyError):
                    if path.suffix == ".claim":
                        content = json.loads(path.read_bytes())
                        if content["id"] in self._recent:
                            self._answer_claim(path, content)
                    elif time.time() - path.stat().st_mtime > _STALE_S:  # of a worker that has ended
                        _remove(path)

    def _delete(self, request_id: str) -> int:
        with self._lock:
            self._forget(request_id)
        name = _name(request_id, None)
        found = {path for pattern in (name, f"{name}_*") for path in self._find(pattern)}
        for path in found:
            _remove(path)
        self._measured_s = float("-inf")
        return sum(path.suffix == ".json" for path in found)

    def _answer_claim(self, claim: Path, content: dict[str, Any]) -> None:
        taken = claim.with_suffix(".taken")
        claim.rename(taken)  # fails if the claim has expired
        try:
            kept = self._keep(content["id"], content["label"], content["item"])
            answer = {} if kept is None else kept.model_dump()
        except ConvokeError as error:
            answer = {"error": error.code, "message": str(error)}
        if answer:
            _write(claim.with_suffix(".done"), json.dumps(answer).encode())
        _remove(taken)

    def _keep(self, request_id: str, label: str, place: int | None) -> Kept | None:
        with self._lock:
            recent = self._recent.get(request_id)
        if recent is None:
            return None
        where = _place(recent, place)
        _check_label(recent.version, label)
        content, row = recent.items[where], recent.rows[where]
        if isinstance(row, ConvokeError) or not isinstance(content, bytes | str):
            raise InvalidRequest(f"item {where} of the request was answered with an error, so it has no label")
        data = content.encode("utf-8", "replace") if isinstance(content, str) else content
        manifest, before, best = recent.version.manifest, recent.kept.get(where), int(row.argmax())
        name = _name(request_id, where if len(recent.items) > 1 else None)
        path = Path(manifest.model, _folder_name(label), f"{name}.{'txt' if manifest.input.is_text else _kind(data)}")
        kept = Kept(
            id=request_id,
            item=where,
            model=manifest.model,
            version=recent.version.number,
            label=label,
            answer=manifest.labels[best],
            score=round(float(row[best]), 6),
            is_correct=manifest.labels[best] == label,
            file=path.as_posix(),
            time=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._write_item(kept, data)
        if before is not None and before.file != kept.file:
            for old in (self._folder / before.file, (self._folder / before.file).with_suffix(".json")):
                _remove(old)
        recent.kept[where] = kept
        if before is None:
            outcome = "right" if kept.is_correct else "wrong"
            self._metrics.feedback.labels(kept.model, kept.version, outcome).inc()
        return kept

    def _write_item(self, kept: Kept, data: bytes) -> None:
        path = self._folder / kept.file
        line = json.dumps(kept.model_dump(), ensure_ascii=False).encode() + b"\n"
        size_bytes = len(data) + len(line)
        if self._size() + size_bytes > self._max_bytes:
            raise FeedbackFull(
                f"the folder of feedback is full: {self._size_bytes} of {self._max_bytes} bytes "
                "(CONVOKE_FEEDBACK_BYTES); move what it has to another place, or raise the limit"
            )
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(path, data)
        _write(path.with_suffix(".json"), line)
        self._size_bytes += size_bytes

    def _size(self) -> int:
        """The bytes of all files; other workers add some between two measurements."""
        now = time.monotonic()
        if now - self._measured_s > _SIZE_S:
            self._size_bytes = sum(path.stat().st_size for path in self._find("*"))
            self._measured_s = now
        return self._size_bytes

    def _find(self, name: str) -> Iterator[Path]:
        return (path for path in self._folder.glob(f"*/*/{name}.*") if path.is_file())

    def _forget(self, request_id: str) -> None:
        recent = self._recent.pop(request_id, None)
        if recent is not None:
            self._recent_bytes -= recent.size_bytes


_ERRORS: dict[str, Callable[[str], ConvokeError]] = {error.code: error for error in (InvalidRequest, FeedbackFull)}


def _place(recent: _Recent, place: int | None) -> int:
    count = len(recent.items)
    if place is None and count == 1:
        return 0
    if place is None or not 0 <= place < count:
        received = "no item" if place is None else f"item {place}"
        raise InvalidRequest(
            f"the request has {count} items, from 0 to {count - 1}, and the feedback names {received}; "
            'send {"label": "...", "item": 0}'
        )
    return place


def _check_label(version: Version, label: str) -> None:
    labels = version.manifest.labels
    if label not in labels:
        known = ", ".join(labels[:20]) + (", ..." if len(labels) > 20 else "")  # noqa: PLR2004
        raise InvalidRequest(f"the label is {label[:40]!r}; expected one of those of {version.name}: {known}")


def _name(request_id: str, place: int | None) -> str:
    """The name of the files of an item: the id, if it is plain, so that people find it."""
    name = request_id
    if not _PLAIN.fullmatch(request_id):
        name = f"{_UNSAFE.sub('-', request_id)[:40]}-{hashlib.sha256(request_id.encode()).hexdigest()[:16]}"
    return name if place is None else f"{name}_{place}"


def _folder_name(label: str) -> str:
    """A label as the name of a folder: as it is, unless it would be hidden or lead elsewhere."""
    return quote(label, safe="") if label.startswith(".") or "/" in label or "\0" in label or "\\" in label else label


def _kind(data: bytes) -> str:
    """The ending of the name of an image; a line break or byte order mark may stand before it."""
    image = data[:64].lstrip(b"\xef\xbb\xbf\r\n\t ")
    return next((kind for start, kind in _KINDS.items() if image.startswith(start)), _TIFF)


def _write(path: Path, data: bytes) -> None:
    """Write a file that is complete or absent, for the owner alone."""
    handle, new = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(handle)
        Path(new).replace(path)
    except BaseException:
        _remove(Path(new))
        raise


def _read_and_remove(path: Path) -> dict[str, Any] | None:
    """The JSON of a file that is removed; None if there is no such file."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    _remove(path)
    return content


def _remove(path: Path) -> bool:
    """Remove a file; whether it was there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
