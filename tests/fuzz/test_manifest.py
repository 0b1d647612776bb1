"""A manifest is a `Manifest` or a `ManifestError`, whatever lies in its file."""

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
from tests.fuzz.spoil import spoilt, values
from tests.fuzz.target import ROOT

GOOD = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(ROOT.glob("models/*/*/manifest.json"))]
IN_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(folder: Path, content: bytes) -> None:
    """The property: a manifest, of whose files some are not named or none is there; or a refusal."""
    (folder / contract.MANIFEST).write_bytes(content)
    with contextlib.suppress(ManifestError):
        manifest = contract.read(folder)
        assert isinstance(manifest, Manifest)
        with pytest.raises(ModelRefused, match=r"no regular file|do not name"):
            contract.verify(folder, manifest)


@IN_FOLDER
@given(st.binary(max_size=100))
def test_any_bytes_are_refused(tmp_path: Path, content: bytes) -> None:
    """What is no JSON, no UTF-8, nothing."""
    check(tmp_path, content)


@IN_FOLDER
@given(values())
def test_any_json_is_refused_or_a_manifest(tmp_path: Path, content: Any) -> None:
    """NaN, huge numbers and lone surrogates included, as Python's JSON writes them."""
    check(tmp_path, json.dumps(content).encode())


@IN_FOLDER
@given(st.sampled_from(GOOD).flatmap(spoilt))
def test_a_spoilt_manifest_is_refused_or_a_manifest(tmp_path: Path, content: Any) -> None:
    """Published manifests with places replaced, dropped, doubled or added."""
    check(tmp_path, json.dumps(content).encode())
