"""The published versions that are measured."""

from pathlib import Path

from contract import manifest as contract
from contract.errors import ManifestError
from contract.manifest import Manifest


def latest_versions(models: Path) -> dict[Path, Manifest]:
    """The folder and manifest of each model's highest version with a valid manifest, below a models/ folder."""
    latest: dict[str, tuple[Path, Manifest]] = {}
    folders = (path for path in sorted(models.glob("*/*")) if path.name.isdecimal())
    for folder in sorted(folders, key=lambda path: int(path.name)):
        try:
            latest[folder.parent.name] = folder, contract.read(folder)
        except ManifestError:
            continue
    return {folder: manifest for _, (folder, manifest) in sorted(latest.items())}
