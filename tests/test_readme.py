"""The README's claims about the service, held against the service."""

import json
import re
from typing import Any

import httpx

from contract import errors as contract_errors
from contract.errors import ConvokeError, ModelRefused, ProviderError
from service import errors
from service.settings import PREFIX, Settings, allowed
from tests.serving import ROOT, Server

README = (ROOT / "README.md").read_text(encoding="utf-8")


def printed_answers() -> list[Any]:
    """The JSON answers that the README prints, in order."""
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", README, re.DOTALL)]


def alike(found: Any, printed: Any) -> bool:
    """Whether two answers are the same, their probabilities within 0.001: processors and precisions differ by less."""
    match printed:
        case dict():
            return set(found) == set(printed) and all(alike(found[key], printed[key]) for key in printed)
        case list():
            return len(found) == len(printed) and all(map(alike, found, printed))
        case float():
            return bool(abs(found - printed) < 1e-3)
        case _:
            return bool(found == printed)


def test_the_printed_answers_are_real(server: Server) -> None:
    """Each `curl` call gives what stands under it, probabilities within what processors differ by."""
    example, photo = ((ROOT / "examples" / name).read_bytes() for name in ("seven.png", "cat.jpg"))
    one, cat, review, two = printed_answers()
    assert alike(httpx.post(f"{server.url}/classify/digits", content=example).json(), one)
    assert alike(httpx.post(f"{server.url}/classify/cats-vs-dogs", content=photo).json(), cat)
    text = re.search(r"curl --data-binary '(.*?)'", README)
    assert text
    answer = httpx.post(f"{server.url}/classify/reviews", content=text[1], headers={"Content-Type": "text/plain"})
    assert alike(answer.json(), review)
    files = [("a", ("seven.png", example)), ("b", ("README.md", README.encode()))]
    answer = httpx.post(f"{server.url}/classify/digits?top=2", files=files).json()
    assert alike(answer, two)


def test_every_setting_is_documented() -> None:
    """Name, default, bounds and meaning of each setting stand in the table, and no others do."""
    in_words = {
        "models": "`models/` beside the service",
        "decode_threads": "as many as processors",
        "api_keys_file": "none",
        "cors_origins": "none",
    }
    expected = [
        f"| `{PREFIX}{name.upper()}` | {in_words.get(name) or f'`{field.default}`'} | {allowed(name)} "
        f"| {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    assert re.findall(rf"^\| `{PREFIX}.*$", README, re.MULTILINE) == expected


def test_every_error_is_documented() -> None:
    """Status and code of every error of the tree stand in the table."""
    for error in {**vars(contract_errors), **vars(errors)}.values():
        if isinstance(error, type) and issubclass(error, ConvokeError):
            if issubclass(error, ModelRefused | ProviderError):
                continue
            assert re.search(rf"^\| {error.status} \| .*`{error.code}`", README, re.MULTILINE), error


def test_the_printed_tree_is_the_tree() -> None:
    """Every file and folder that the tree names is there."""
    tree = README.split("## The tree", 1)[1].split("```")[1]
    folder = ROOT
    for line in tree.strip().splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = ROOT
        path = folder / name
        assert path.exists(), name
        if not line.startswith(" ") and name.endswith("/"):
            folder = path
