"""The page at GET /docs in Chromium: a route is tried with a file, under the page's policy."""

from typing import Any

from playwright.sync_api import expect

from tests.service.page.test_browser import browser, open_page, pytestmark, shoot
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
