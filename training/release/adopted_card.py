"""The model card of an adopted version, which says what is unknown about it."""

import json
from textwrap import fill
from typing import TYPE_CHECKING

from contract.manifest import Manifest
from training.release.card import metrics_table

if TYPE_CHECKING:
    from training.release.decided import Decided

_UNKNOWN = """\
The file does not say what the network was trained on, by whom and under which terms, nor how good it is on other inputs
than those below. Its labels, and the way from pixels or token ids to its input, are those of the next section: where
they differ from its training, its answers are wrong, with high probabilities."""


def card(manifest: Manifest, decided: "Decided", comparison: str) -> str:
    """The card of a new version.

    Args:
        manifest: the version's.
        decided: what was decided about the graph.
        comparison: a sentence about the version before it.
    """
    source = decided.foreign
    origin = f"Adopted from `{source.path.name}` (SHA-256 {manifest.recipe['sha256']}), made by {source.producer}."
    notes = "\n".join(f"- {_fill(note, indent='  ')}" for note in decided.notes)
    settings = json.dumps({key: manifest.recipe[key] for key in ("input", "output")}, indent=2, ensure_ascii=False)
    return f"""# {manifest.model}, version {manifest.version}

{_fill(origin)}

## Unknown

{_fill(_UNKNOWN)}

## What was stated, guessed and measured

{notes}

```json
{settings}
```

## Examples

{_measured(decided, manifest)}

{_fill(comparison)}

Commit {manifest.commit}, parameters {manifest.parameters:,}.
"""


def _measured(decided: "Decided", manifest: Manifest) -> str:
    if decided.metrics is None:
        return _fill(
            "No examples were given, so nothing was measured: the accuracy is unknown, and the probabilities are "
            "not calibrated."
        )
    if decided.is_held_out:
        choice = (
            f"The choices and the temperature, {manifest.temperature:.3f}, come from one half of the examples, and "
            "these figures from the other half."
        )
    else:
        choice = (
            "The examples are few: the choices were made on the same ones, and the probabilities are not calibrated."
        )
    return f"{metrics_table({'examples': decided.metrics})}\n\n{_fill(choice)}"


def _fill(text: str, indent: str = "") -> str:
    return fill(text, 120, break_long_words=False, break_on_hyphens=False, subsequent_indent=indent)
