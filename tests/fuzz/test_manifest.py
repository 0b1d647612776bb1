"""Reading any manifest file returns a `Manifest` or raises `ManifestError`."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contract import manifest as contract
from contract.errors import ManifestError, ModelRefused
from contract.manifest import Manifest
from tests.fuzz.strategies import json_values, mutations_of
from tests.serving import ROOT

PUBLISHED = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(ROOT.glob("models/*/*/manifest.json"))]
IN_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(folder: Path, content: bytes) -> None:
    """The property: a manifest, whose files are not all named or missing; or a `ManifestError`."""
    (folder / contract.MANIFEST).write_bytes(content)
    with contextlib.suppress(ManifestError):
        manifest = contract.read(folder)
        assert isinstance(manifest, Manifest)
        with pytest.raises(ModelRefused, match=r"not a regular file|not list"):
            contract.verify(folder, manifest)


@IN_FOLDER
@given(st.binary(max_size=100))
def test_any_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    """Including empty files, and bytes that are not UTF-8 or not JSON."""
    check(tmp_path, content)


@IN_FOLDER
@given(json_values())
def test_any_json_is_read_or_refused(tmp_path: Path, content: Any) -> None:
    """Including NaN, huge numbers and lone surrogates, as Python's JSON encoder writes them."""
    check(tmp_path, json.dumps(content).encode())


@IN_FOLDER
@given(st.sampled_from(PUBLISHED).flatmap(mutations_of))
def test_a_mutated_manifest_is_read_or_refused(tmp_path: Path, content: Any) -> None:
    """Published manifests with entries replaced, deleted, duplicated or added."""
    check(tmp_path, json.dumps(content).encode())
