"""The contract between training and serving."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contract import manifest as contract
from contract.errors import ManifestError, ModelRefused


def rewrite(version: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest on disk."""
    path = version / contract.MANIFEST
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def variant(**change: str) -> dict[str, Any]:
    """The entry of a graph in int8, with changes; the card serves as its file."""
    metrics = {"mnist": {"n": 1, "accuracy": 1.0, "nll": 0.0, "ece": 0.0}}
    return {"precision": "int8", "graph": contract.CARD, "test_metrics": metrics, **change}


def test_variants_are_optional(version: Path) -> None:
    """A manifest without the key has float32 only; otherwise graphs and metrics are found by precision."""
    plain = contract.read(version)
    assert "variants" not in json.loads((version / contract.MANIFEST).read_text())
    assert (plain.precisions, plain.variant("int8"), plain.graph("float32")) == (["float32"], None, contract.GRAPH)
    rewrite(version, lambda content: content.update(variants=[variant()]))
    manifest = contract.read(version)
    assert (manifest.precisions, manifest.graph("int8"), manifest.graph("float32")) == (
        ["float32", "int8"],
        contract.CARD,
        contract.GRAPH,
    )
    assert manifest.metrics("int8")["mnist"].n == 1
    assert manifest.metrics("float32") == plain.test_metrics


def test_what_was_written_is_read(version: Path, tmp_path: Path) -> None:
    """Reading returns the manifest that was written, and the published files pass."""
    manifest = contract.read(version)
    contract.verify(version, manifest)
    manifest.write(tmp_path)
    assert contract.read(tmp_path) == manifest


@pytest.mark.parametrize("schema_version", [None, 0, 1, 3, "2", True, [2]])
def test_another_schema_version_is_refused(version: Path, schema_version: object) -> None:
    """An old or future manifest is not read; the message has both versions."""
    rewrite(version, lambda content: content.update(schema_version=schema_version))
    with pytest.raises(ManifestError, match=rf"schema version {re.escape(repr(schema_version))} \(expected 2\)"):
        contract.read(version)


def test_another_preprocessing_version_is_refused(version: Path) -> None:
    """A model that was trained with other preprocessing is not served."""
    rewrite(version, lambda content: content.update(preprocessing_version=99))
    with pytest.raises(ManifestError, match=r"preprocessing version 99 \(expected 1\)"):
        contract.read(version)


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (lambda content: content.pop("labels"), "labels"),
        (lambda content: content.update(labels=["0"]), "labels"),
        (lambda content: content.update(labels=["0", "0"]), "labels"),
        (lambda content: content.update(surprise=1), "surprise"),
        (lambda content: content.update(version=0), "version"),
        (lambda content: content.update(version="1"), "version"),
        (lambda content: content.update(model="../digits"), "model"),
        (lambda content: content.update(max_batch=-1), "max_batch"),
        (lambda content: content["input"].update(width=32), "28 x 28"),
        (lambda content: content["input"].update(mode="CMYK"), "mode"),
        (lambda content: content["files"].pop("model.onnx"), "model.onnx"),
        (lambda content: content["files"].update({"model.onnx": "abc"}), "model.onnx"),
        (lambda content: content["files"].update({"../../etc/passwd": "0" * 64}), "passwd"),
        (lambda content: content["test_metrics"]["mnist"].update(accuracy=1.1), "accuracy"),
        (lambda content: content.update(test_metrics=[]), "test_metrics"),
        (lambda content: content.update(variants=[variant(graph="other.onnx")]), r"files .* other\.onnx"),
        (lambda content: content.update(variants=[variant(graph="model.onnx")]), "variants|model.onnx"),
        (lambda content: content.update(variants=[variant(precision="int4")]), "variants.0.precision"),
        (lambda content: content.update(variants=[variant(), variant()]), "variants .* twice"),
    ],
)
def test_invalid_entries_are_refused(version: Path, change: Callable[[Any], object], fact: str) -> None:
    """The message names the entry that is missing, unknown or out of bounds."""
    rewrite(version, change)
    with pytest.raises(ManifestError, match=fact):
        contract.read(version)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_manifest_is_refused(version: Path, content: bytes) -> None:
    """Bytes that are not a manifest raise no other exception."""
    (version / contract.MANIFEST).write_bytes(content)
    with pytest.raises(ManifestError):
        contract.read(version)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    """A folder without a manifest is refused."""
    with pytest.raises(ManifestError, match="manifest is missing"):
        contract.read(tmp_path)


@pytest.mark.parametrize("name", [contract.GRAPH, contract.CARD, contract.GOLDEN])
def test_a_wrong_hash_is_refused(version: Path, name: str) -> None:
    """A single changed byte in any file is found, and the message names the file."""
    path = version / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelRefused, match=rf"{name}: has SHA-256 [0-9a-f]{{64}}, but the manifest"):
        contract.verify(version, contract.read(version))


def test_missing_files_and_links_are_refused(version: Path, tmp_path: Path) -> None:
    """A missing file and a link to another place are refused."""
    manifest = contract.read(version)
    card = version / contract.CARD
    card.rename(tmp_path / "card")
    with pytest.raises(ModelRefused, match="not a regular file"):
        contract.verify(version, manifest)
    card.symlink_to(tmp_path / "card")
    with pytest.raises(ModelRefused, match="not a regular file"):
        contract.verify(version, manifest)
