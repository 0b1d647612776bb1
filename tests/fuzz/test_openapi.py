"""A short run of `python -m tests.fuzz.openapi`."""

from pathlib import Path

from tests.fuzz import openapi


def test_responses_match_the_openapi_document(tmp_path: Path) -> None:
    """No server error and no undeclared status, media type or schema, for valid and invalid requests."""
    code, output = openapi.run(tmp_path, examples=5)
    assert code == 0, output
    assert " generated" in output
    assert "Selected: 0" not in output
