"""The page at GET /docs in Chromium: a route is tried with a file, under the page's policy."""

from typing import Any

import httpx
from playwright.sync_api import expect

from tests.service.page.test_browser import browser, check_accessibility, open_page, pytestmark, shoot
from tests.serving import ROOT, Server

__all__ = ["browser", "open_page", "pytestmark"]


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
