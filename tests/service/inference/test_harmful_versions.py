"""Versions that are harmful, or whose files are, are refused with the reason."""

import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contract import manifest as contract
from contract.spec import TOKENIZER
from tests import reviews
from tests.contract.test_graph import HARMFUL
from tests.service.inference.test_repository import repository


def rehash(version: Path) -> None:
    """Make the manifest list the files as they are now."""
    content = json.loads((version / contract.MANIFEST).read_text())
    content["files"] = {name: contract.sha256(version / name) for name in content["files"]}
    (version / contract.MANIFEST).write_text(json.dumps(content))


def reason(version: Path) -> str:
    """The reason why a version is refused."""
    models = repository(version.parents[1])
    models.load()
    return models.refused[version.parent.name][version.name]


def open_files() -> int:
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


@pytest.mark.parametrize("name", ["weights beside", "a constant of gigabytes", "a loop"])
def test_a_harmful_graph_costs_nothing(version: Path, name: str) -> None:
    """A harmful graph with the right hash is refused without any cost in memory or open files."""
    (version / contract.GRAPH).write_bytes(HARMFUL[name][0]().SerializeToString())
    (version / "weights.bin").write_bytes(bytes(16))
    rehash(version)
    peak_kib, files = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, open_files()
    assert HARMFUL[name][1] in reason(version)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_kib < 100_000  # KiB on Linux
    assert open_files() <= files


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        ({"max_batch": 10**9}, "max_batch"),
        ({"version": 10**30}, "version"),
        ({"labels": ["x" * 300, "y"]}, "labels"),
        ({"labels": [str(number) for number in range(100_001)]}, "labels"),
        ({"input": {"kind": "image", "height": 10**6, "width": 10**6, "mode": "RGB", "framing": "squash"}}, "height"),
        ({"input": {"kind": "image", "height": 4096, "width": 4096, "mode": "RGB", "framing": "squash"}}, "batch of"),
        ({"input": {"kind": "text", "length": 10**12, "vocabulary": 2}}, "length"),
        ({"input": {"kind": "text", "length": 1, "vocabulary": 2, "tokenizer": "../../etc/passwd"}}, "tokenizer"),
        ({"files": {"../model.onnx": "0" * 64}}, "files"),
        ({"files": {"model.onnx\n": "0" * 64}}, "files"),
        ({"files": {"model.onnx": "0" * 64}}, "card.md"),
        ({"model": "../digits"}, "model"),
        ({"model": "x" * 101}, "model"),
    ],
)
def test_a_manifest_out_of_bounds_is_refused(version: Path, change: dict[str, Any], fact: str) -> None:
    """The message names the entry that has a huge size, or a name that leads out of the folder."""
    content = json.loads((version / contract.MANIFEST).read_text())
    (version / contract.MANIFEST).write_text(json.dumps({**content, **change}))
    assert fact in reason(version)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{" * 100_000, '{"schema_version":' + "9" * 5000 + "}", "\ufeff{}", "NaN", '"', "\0"]
)
def test_a_malformed_manifest_is_refused(version: Path, text: str) -> None:
    """Deep nesting, huge numbers, and text that is not JSON."""
    (version / contract.MANIFEST).write_text(text)
    assert contract.MANIFEST in reason(version)


@pytest.mark.parametrize("name", [contract.MANIFEST, contract.CARD, contract.GOLDEN, contract.GRAPH])
def test_only_regular_files_are_read(version: Path, tmp_path: Path, name: str) -> None:
    """A link, a pipe (which would never end) or a folder in the place of a file is refused."""
    path, outside = version / name, tmp_path / "outside"
    path.rename(outside)
    replacements: list[Callable[[], object]] = [lambda: path.symlink_to(outside), lambda: os.mkfifo(path)]
    for replace in replacements:
        replace()
        assert "not a regular file" in reason(version)
        path.unlink()
    path.mkdir()
    assert "not a regular file" in reason(version)


def test_a_huge_manifest_is_refused(version: Path) -> None:
    """A sparse file of a terabyte is not read."""
    with (version / contract.MANIFEST).open("wb") as file:
        file.truncate(1 << 40)
    assert str(contract.MAX_TEXT_BYTES) in reason(version)


def test_links_out_of_the_models_folder_are_refused(version: Path, tmp_path: Path) -> None:
    """A version or model that is in another place is not served; the models folder itself may be a link."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    version.rename(elsewhere / "1")
    version.symlink_to(elsewhere / "1")
    assert "link" in reason(version)
    version.unlink()
    version.parent.rmdir()
    version.parent.symlink_to(elsewhere)
    assert "link" in reason(version)
    version.parent.unlink()
    elsewhere.rename(version.parent)
    link = tmp_path / "link"
    link.symlink_to(version.parents[1])
    models = repository(link)
    models.load()
    assert models.ready


def _with_a_huge_id() -> str:
    content = json.loads(reviews.tokenizer().to_str())
    content["model"]["vocab"]["far"] = 4_000_000_000
    return json.dumps(content)


@pytest.mark.parametrize("text", ['{"a":' * 100_000, _with_a_huge_id(), '{"model": 7}'])
def test_a_malformed_tokenizer_is_refused(tmp_path: Path, text: str) -> None:
    """Deep nesting, an id outside of the vocabulary, and JSON of another form; the message names the file."""
    assert TOKENIZER in reason(reviews.publish(tmp_path, tokenizer_json=text))


def test_a_huge_tokenizer_is_refused(tmp_path: Path) -> None:
    """The limit is that of all files of text."""
    version = reviews.publish(tmp_path)
    with (version / TOKENIZER).open("r+b") as file:
        file.truncate(contract.MAX_TEXT_BYTES + 1)
    rehash(version)
    assert str(contract.MAX_TEXT_BYTES) in reason(version)


def as_volume(folder: Path) -> None:
    """Lay out a folder as Kubernetes mounts a volume: each entry is a link below `..data`, itself a link."""
    content = folder / "..2026_11_30_08_00_00.1"
    content.mkdir()
    for path in list(folder.iterdir()):
        if path != content:
            path.rename(content / path.name)
            path.symlink_to(f"..data/{path.name}")
    (folder / "..data").symlink_to(content.name)


@pytest.mark.parametrize("depth", ["version", "model", "models"])
def test_links_inside_of_a_volume_are_followed(version: Path, depth: str) -> None:
    """A ConfigMap, Secret or projected volume at the folder of a version, of a model or of all models."""
    volume = {"version": version, "model": version.parent, "models": version.parents[1]}[depth]
    as_volume(volume)
    models = repository(version.parents[1])
    models.load()
    assert models.refused == {}
    assert models.ready


def test_a_volume_that_is_exchanged_is_tried_again(version: Path) -> None:
    """Kubernetes replaces `..data`, in which a refused version can be repaired."""
    graph = (version / contract.GRAPH).read_bytes()
    (version / contract.GRAPH).write_bytes(b"garbage")
    as_volume(version)
    models = repository(version.parents[1])
    models.load()
    assert not models.ready
    new = version / "..2026_11_30_09_00_00.2"
    new.mkdir()
    for path in (version / "..data").iterdir():
        (new / path.name).write_bytes(graph if path.name == contract.GRAPH else path.read_bytes())
    (version / "..data_tmp").symlink_to(new.name)
    (version / "..data_tmp").rename(version / "..data")
    models.scan()
    assert models.ready


@pytest.mark.parametrize(
    "target", ["model.onnx", "nothing", "/etc/passwd", "/dev/zero", "..", "../../../outside", "pipe"]
)
def test_other_links_are_refused(version: Path, target: str) -> None:
    """A link to itself, to nothing, out of models/, to a device, a folder or a pipe."""
    (version / contract.GRAPH).rename(version.parents[2] / "outside")
    os.mkfifo(version / "pipe")
    (version / contract.GRAPH).symlink_to(target)
    assert "not a regular file" in reason(version)
