"""The page at GET /docs, and drift and feedback on the page at GET /, in Chromium."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from tests.service.page.test_browser import browser, check_accessibility, draw_digit, open_page, pytestmark, shoot
from tests.serving import ROOT, Server

__all__ = ["browser", "open_page", "pytestmark"]


@pytest.fixture(scope="module")
def feedback_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("feedback")


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Server], feedback_dir: Path) -> Server:
    """A server that keeps feedback."""
    server = start_server(CONVOKE_FEEDBACK_DIR=str(feedback_dir))
    server.wait_until_ready()
    return server


def test_a_route_is_tried_with_a_file(server: Server, open_page: Any) -> None:
    """Routes are in groups; a file is picked and sent; the page shows the curl command and the answer."""
    page = open_page(server)
    page.goto(f"{server.url}/docs")
    for group in ("classify", "feedback", "models", "protocol", "operation"):
        expect(page.locator(f"#operations-tag-{group}")).to_be_visible()
    shoot(page, "docs")
    classify = page.locator("#operations-classify-classify")
    classify.locator("button.opblock-summary-control").click()
    classify.locator("tr[data-param-name=model] input").fill("digits")
    classify.locator("input[type=file]").set_input_files(ROOT / "examples/seven.png")
    classify.get_by_role("button", name="Execute").click()
    answer = classify.locator(".live-responses-table")
    expect(answer.locator("td.response-col_status").last).to_contain_text("200")
    expect(answer.locator("td.response-col_description").last).to_contain_text('"label": "7"')
    expect(classify.locator(".curl-command")).to_contain_text("/classify/digits")
    shoot(page, "docs-tried")


def test_the_model_card_shows_drift(server: Server, open_page: Any) -> None:
    """The card has a histogram of each quantity; of a hundred times the same digit, the labels differ largely."""
    seven = (ROOT / "examples/seven.png").read_bytes()
    for _ in range(4):
        files = [("image", (f"{number}.png", seven, "image/png")) for number in range(60)]
        assert httpx.post(f"{server.url}/classify/digits", files=files, timeout=60).status_code == 200
    page = open_page(server)
    page.get_by_role("radio", name="digits").check(force=True)
    page.locator("#card-button").click()
    drift = page.locator("#card .drift")
    expect(drift.get_by_role("img")).to_have_count(3)
    expect(drift.get_by_role("img", name="Predicted label: largely different")).to_be_visible()
    check_accessibility(page)
    shoot(page, "drift")


def test_the_right_label_is_sent_from_the_page(server: Server, feedback_dir: Path, open_page: Any) -> None:
    """A drawn 7 is kept as what the person says it is, and the page says so."""
    page = open_page(server)
    page.get_by_role("radio", name="digits").check(force=True)
    draw_digit(page, 7)
    expect(page.locator("#feedback")).to_be_visible()
    expect(page.get_by_label("Right label")).to_have_value("7")
    page.get_by_label("Right label").select_option("1")
    page.locator("#feedback-send").click()
    expect(page.locator("#feedback-state")).to_have_text("Kept as 1, not 7.")
    (kept,) = (feedback_dir / "digits/1").glob("*.png")
    assert kept.read_bytes().startswith(b"\x89PNG")
    check_accessibility(page)
    shoot(page, "feedback")
