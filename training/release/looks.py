"""How often the test splits of a model were looked at to decide about a publication.

Each decision that depends on a test split makes the next figure on it a little too high, so the card states their
number. The file is hidden in the model's folder, and the service does not read it.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

from contract.errors import ConvokeError
from contract.manifest import Manifest
from contract.manifest import read as read_manifest
from training.release.version import numbers

FILE = ".test-uses.jsonl"


def record(home: Path, draft: Manifest) -> int:
    """Note that the test splits of a draft's data set are looked at now; returns how often they have been, with this.

    Publications that were refused count, too. Versions without a note, as in a copied folder, count once each.
    """
    path = home / FILE
    noted = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    earlier = sum(_fingerprint(line) == draft.dataset_fingerprint for line in noted)
    count = max(earlier, _versions(home, draft.dataset_fingerprint)) + 1
    note = {
        "fingerprint": draft.dataset_fingerprint,
        "recipe": draft.recipe.get("name"),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    missing = count - 1 - earlier  # versions without a note
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps({**note, "recipe": None}) + "\n" for _ in range(missing)))
        file.write(json.dumps(note) + "\n")
    return count


def _fingerprint(line: str) -> str | None:
    try:
        return str(json.loads(line)["fingerprint"])
    except (ValueError, KeyError, TypeError):
        return None  # a line that was not written to its end


def _versions(home: Path, fingerprint: str) -> int:
    count = 0
    for number in numbers(home):
        try:
            count += read_manifest(home / str(number)).dataset_fingerprint == fingerprint
        except ConvokeError:
            continue
    return count
