"""The reference of a published version: written by publication, by adoption, and by a command."""

import json
from pathlib import Path

import pytest
import torch

from contract import reference as contract
from contract.manifest import MANIFEST, verify
from contract.manifest import read as read_manifest
from training import __main__ as command
from training.data.dataset import Split


def _noise(count: int) -> Split:
    images = torch.randint(0, 256, (count, 28, 28, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Split(images, torch.arange(count) % 10)


def test_the_command_adds_a_reference(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest changes in the hash of the new file alone; test splits count together."""
    monkeypatch.setattr(
        "training.release.gate.catalogue.tests", lambda *_: {"noise": _noise(150), "other noise": _noise(90)}
    )
    before = json.loads((version / MANIFEST).read_text())
    before["files"].pop(contract.REFERENCE, None)
    assert command.main(["reference", str(version)]) == 0
    after = json.loads((version / MANIFEST).read_text())
    assert after["files"].pop(contract.REFERENCE)
    assert after == before
    verify(version, read_manifest(version))
    made = contract.read(version, read_manifest(version))
    assert made is not None
    assert (made.n, made.data, set(made.quantities)) == (240, "noise, other noise", {"score", "label", "brightness"})


def test_few_test_data_make_no_reference(
    version: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command says how many examples there are and how many are needed, and changes nothing."""
    monkeypatch.setattr("training.release.gate.catalogue.tests", lambda *_: {"noise": _noise(199)})
    before = (version / MANIFEST).read_bytes()
    assert command.main(["reference", str(version)]) == 2
    message = capsys.readouterr().err
    assert "199" in message
    assert "200" in message
    assert (version / MANIFEST).read_bytes() == before
