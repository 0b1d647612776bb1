"""The short form of `python -m tests.fuzz.openapi`."""

from pathlib import Path

from tests.fuzz import openapi


def test_a_started_server_answers_as_its_document_says(tmp_path: Path) -> None:
    """No server error, no undeclared status, kind or shape, for requests inside and outside of the schema."""
    code, words = openapi.run(tmp_path, examples=5)
    assert code == 0, words
    assert " generated" in words
    assert "Selected: 0" not in words
