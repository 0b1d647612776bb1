"""The same on the machines of a Ray cluster: Ray Data gives each actor, which has one session, one list after another.

Input, output and models must be on storage that all machines share, under the same paths. A list of items becomes one
part, named by its ids, so a list that is scored again, because its machine was lost, replaces its own part. Which items
have a row is known by their content, as without Ray, so Ray's checkpoints are not needed.
"""

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contract.errors import Unreadable
from service.bulk.reading import Item, Source, read_file
from service.bulk.scoring import OnProgress, Scorer, Summary
from service.bulk.writing import Output, OutputError, read_done, replace
from service.settings import Settings

LIST_ITEMS = 2000
_LISTS = "_lists"
_ROOT = Path(__file__).resolve().parents[2]


def score(
    source: Source, output: Output, folder: Path, settings: Settings, address: str, on_progress: OnProgress
) -> Summary:
    """Score the items that have no row yet; the arguments are those of `scoring.score`, and the cluster's address.

    Raises:
        OutputError: Ray is not installed, or its cluster cannot be reached.
        ModelRefused, ProviderError, InputError: as `scoring.score`.
    """
    try:
        import ray  # noqa: PLC0415 -- an optional extra
        import ray.data  # noqa: PLC0415
    except ImportError as error:
        raise OutputError(f"--ray needs Ray; install it with requirements/ray.txt: {error}") from error
    start = time.monotonic()
    done, errors = read_done(output)
    summary = Summary(errors=errors)
    place = output.folder.absolute() / _LISTS
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    lists = [str(path) for path in _write_lists(source, done.take, place, summary)]
    if not lists:
        shutil.rmtree(place)
        return summary
    environment = {name: value for name, value in os.environ.items() if name.startswith(("CONVOKE_", "ORT_"))}
    modules = [str(_ROOT / "contract"), str(_ROOT / "service")]
    try:
        ray.init(address=address, runtime_env={"py_modules": modules, "env_vars": environment}, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        raise OutputError(f"--ray {address}: the cluster cannot be reached: {error}") from error
    try:
        actors = int(ray.cluster_resources().get("CPU", 1))
        results = ray.data.from_items([{"list": path} for path in lists], override_num_blocks=len(lists)).map(
            Actor,
            fn_constructor_args=(str(folder.absolute()), settings, str(output.folder.absolute()), output.format),
            concurrency=(1, actors),
            num_cpus=1,
        )
        for result in results.iter_rows():
            summary.scored += result["rows"]
            summary.errors.update(json.loads(result["errors"]))
            summary.seconds = time.monotonic() - start
            on_progress(summary)
    finally:
        ray.shutdown()
    shutil.rmtree(place)
    summary.seconds = time.monotonic() - start
    return summary


class Actor:
    """Scores lists of items, with the version opened once."""

    def __init__(self, folder: str, settings: Settings, output: str, form: Any) -> None:
        threads = settings.model_copy(update={"decode_threads": 1})  # there is an actor for each processor
        self._scorer = Scorer(Path(folder), threads)
        self._output = Output(Path(output), form)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Score the list in a file, and write its part."""
        with Path(row["list"]).open(encoding="utf-8", errors="surrogateescape") as file:
            items = [_item(json.loads(line), self._scorer.max_bytes) for line in file]
        rows = self._scorer.score(items)
        self._output.write(rows)
        return {"rows": len(rows), "errors": json.dumps(Counter(row.error for row in rows if row.error))}


def _write_lists(source: Source, is_done: Any, place: Path, summary: Summary) -> Iterator[Path]:
    """Files of the items without a row: a path, or a table's content, for each."""
    lines: list[str] = []
    for item in source.items():
        digest = item.digest()
        if is_done(digest):
            summary.skipped += 1
            continue
        lines.append(json.dumps({"id": digest, "source": item.source, **_content(item)}))
        if len(lines) >= LIST_ITEMS:
            yield _write_list(place, lines)
            lines = []
    if lines:
        yield _write_list(place, lines)


def _write_list(place: Path, lines: list[str]) -> Path:
    path = place / f"{len(list(place.iterdir())):08}.jsonl"
    replace(path, "\n".join(lines).encode(errors="surrogateescape"))  # an actor of a killed run may read it
    return path


def _content(item: Item) -> dict[str, Any]:
    if item.path is not None:
        return {"path": str(item.path.absolute())}
    if isinstance(item.content, bytes):
        return {"bytes": item.content.hex()}
    return {"text": item.content} if isinstance(item.content, str) else {"error": str(item.content)}


def _item(entry: dict[str, Any], max_bytes: int) -> tuple[str, Item]:
    match entry:
        case {"path": path}:
            content: Any = read_file(Path(path), max_bytes)
        case {"bytes": text}:
            content = bytes.fromhex(text)
        case {"text": content}:
            pass
        case _:
            content = Unreadable(entry["error"])
    return entry["id"], Item(entry["source"], content)
