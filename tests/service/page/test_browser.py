"""The page at GET / in Debian's Chromium, as people use it: by mouse, by keyboard, on a phone, with API keys."""

import csv
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.drawing import STROKES, draw, encode
from tests.serving import ROOT, Server, make_keys

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REVIEW = "A warm, funny film that earns every one of its tears. The plot is thin, but the cast is superb."

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens the page of a server; afterwards nothing may have been reported on its console or by its policy."""
    reports: list[str] = []
    pages: list[Page] = []

    def open_(server: Server, **options: Any) -> Page:
        page = browser.new_page(**{"viewport": {"width": 1200, "height": 900}, **options})
        page.set_default_timeout(30_000)
        page.on("console", lambda message: reports.append(message.text))
        page.on("pageerror", lambda error: reports.append(str(error)))
        page.on("request", lambda request: reports.append(request.url) if _is_elsewhere(request.url, server) else None)
        page.goto(server.url)
        pages.append(page)
        return page

    yield open_
    for page in pages:
        page.close()
    assert [report for report in reports if "the server responded with a status of 4" not in report] == []


def _is_elsewhere(url: str, server: Server) -> bool:
    return not url.startswith((f"{server.url}/", "blob:", "data:"))


def draw_digit(page: Page, digit: int) -> None:
    """Draw a digit on the pad with the mouse."""
    box = page.locator("#pad").bounding_box()
    assert box is not None
    points = [
        (box["x"] + box["width"] * (0.3 + 0.4 * x), box["y"] + box["height"] * (0.15 + 0.7 * y))
        for x, y in STROKES[digit]
    ]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=10)
        page.wait_for_timeout(30)
    page.mouse.up()


def choose(page: Page, model: str) -> None:
    page.get_by_role("radio", name=model).check(force=True)


def check_accessibility(page: Page) -> None:
    """Axe finds no violation of WCAG 2.2 AA."""
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    results = Axe().run(page, options={"runOnly": tags})
    assert results.violations_count == 0, results.generate_report()


def shoot(page: Page, name: str) -> None:
    """Keep a screenshot if CONVOKE_SCREENSHOTS names a folder."""
    folder = os.environ.get("CONVOKE_SCREENSHOTS")
    if folder:
        page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_a_drawing_is_classified_while_it_is_drawn_and_explained(server: Server, open_page: Any) -> None:
    """Probabilities move while one draws; afterwards the label, Why? and Code; undo clears the answer."""
    page = open_page(server)
    choose(page, "digits")
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if "/classify/" in request.url else None)
    page.evaluate(
        """() => {
            window.live = [];
            const send = window.fetch;
            window.fetch = (path, options) => {
                const keep = (bytes) => window.live.push([...new Uint8Array(bytes)]);
                if (options.body.size < 1200) options.body.arrayBuffer().then(keep);
                return send(path, options);
            };
        }"""
    )
    draw_digit(page, 7)
    expect(page.locator("#actions")).to_be_visible()
    expect(page.locator("#result b")).to_have_text("7")
    live = page.evaluate("window.live")
    assert len(sent) > 3
    assert live
    for content in live:
        image = Image.open(io.BytesIO(bytes(content)))
        assert (image.mode, image.size, image.getpixel((0, 0)), max(image.getextrema())) == ("L", (28, 28), 0, 255)
    page.get_by_role("button", name="Why?").click()
    expect(page.locator("#why canvas[data-ready]")).to_be_visible()
    page.get_by_label("What speaks for").select_option("1")
    expect(page.locator("#why .legend")).to_contain_text("against 1")
    page.get_by_label("What speaks for").select_option("7")
    expect(page.locator("#why .legend")).to_contain_text("against 7")
    page.get_by_role("button", name="Code").click()
    expect(page.locator("#code pre")).to_contain_text(f"{server.url}/classify/digits")
    page.get_by_role("button", name="Python").click()
    expect(page.locator("#code pre")).to_contain_text("urllib.request")
    check_accessibility(page)
    shoot(page, "page-digits")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#result")).to_contain_text("appears here")


def test_a_review_is_typed_and_its_words_are_weighed(server: Server, open_page: Any) -> None:
    """In dark mode: the label, coloured words, the strongest ones, and an abstention in words."""
    page = open_page(server, color_scheme="dark")
    choose(page, "reviews")
    page.get_by_label("Text", exact=True).fill(REVIEW)
    expect(page.locator("#result b")).to_have_text("positive")
    expect(page.locator("#actions")).to_be_visible()
    page.get_by_role("button", name="Why?").click()
    expect(page.locator("#why mark", has_text="superb")).to_be_visible()
    assert page.locator("#why .words").inner_text() == REVIEW
    check_accessibility(page)
    shoot(page, "page-reviews")
    page.get_by_label("Text", exact=True).fill("It is a film.")
    page.get_by_label("Abstain below").fill("99")
    expect(page.locator("#result")).to_contain_text("Not sure")


def test_inside_walks_through_the_network(server: Server, open_page: Any) -> None:
    """Each layer with its arithmetic, maps and filters; a click and keys on cells show what these have seen."""
    page = open_page(server)
    choose(page, "digits")
    draw_digit(page, 7)
    expect(page.locator("#actions")).to_be_visible()
    page.get_by_role("button", name="Inside").click()
    steps = page.get_by_role("tab")
    names = ["input", "conv1", "pool1", "conv2", "pool2", "flatten1", "dense1", "dense2", "softmax1"]
    expect(steps.locator("b")).to_have_text(names)
    page.get_by_role("button", name="Next layer").click()
    panel = page.get_by_role("tabpanel")
    expect(panel.locator(".formulas")).to_contain_text("OH = (28 + 2*2 - 5)/1 + 1 = 28")
    maps = panel.locator(".maps")
    expect(panel.locator("img.filters")).to_have_attribute("src", re.compile("^blob:"))
    maps.click(position={"x": 3, "y": 3})
    expect(panel.locator(".cell")).to_contain_text("Map 1, row 1, column 1")
    expect(panel.locator(".cell")).to_contain_text(re.compile("3 . 3 pixels"))  # the others are padding
    expect(panel.locator(".numbers")).to_have_count(2)
    maps.focus()
    for key in ("PageDown", "ArrowDown", "ArrowDown", "ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    expect(panel.locator(".cell")).to_contain_text("Map 2, row 4, column 3")
    expect(panel.locator(".cell")).to_contain_text(re.compile("5 . 5 pixels"))
    expect(panel.locator(".sum")).to_contain_text("sum of 25 products")
    check_accessibility(page)
    shoot(page, "page-inside")
    steps.nth(1).focus()
    page.keyboard.press("End")
    expect(panel.locator(".units tr.first")).to_contain_text("7")
    expect(panel.locator(".units tr.first")).to_contain_text("exp(")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#inside")).to_be_hidden()


def test_inside_a_text_are_its_strongest_windows(server: Server, open_page: Any) -> None:
    """On a dark phone: the windows that count, whose tokens light up; nothing is cut off."""
    page = open_page(
        server, color_scheme="dark", viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True
    )
    choose(page, "reviews")
    page.get_by_label("Text", exact=True).fill(REVIEW)
    expect(page.locator("#actions")).to_be_visible()
    page.get_by_role("button", name="Inside").click()
    page.get_by_role("tab", name="windows1-1").click()
    found = page.locator(".found button", has_text="superb").first
    found.tap()
    expect(page.locator(".chips .lit")).to_have_text("superb")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    check_accessibility(page)


def test_photos_are_chosen_dropped_and_pasted(server: Server, open_page: Any) -> None:
    """One photo by each way; a file that is no image is refused in words."""
    page = open_page(server)
    choose(page, "cats-vs-dogs")
    page.set_input_files("#pick", ROOT / "examples/cat.jpg")
    expect(page.locator("#result b")).to_have_text("cat")
    for event, holder in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.set_input_files("#pick", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"})
        expect(page.locator("#result .error")).to_contain_text("Unsupported image format")
        photo = [*(ROOT / "examples/cat.jpg").read_bytes()]
        page.evaluate(
            """([name, holder, bytes]) => {
                const transfer = new DataTransfer();
                transfer.items.add(new File([new Uint8Array(bytes)], "cat.jpg", {type: "image/jpeg"}));
                const Kind = name === "drop" ? DragEvent : ClipboardEvent;
                document.body.dispatchEvent(new Kind(name, {[holder]: transfer, bubbles: true, cancelable: true}));
            }""",
            [event, holder, photo],
        )
        expect(page.locator("#result b")).to_have_text("cat")


def test_many_files_give_a_table_and_a_csv_file(server: Server, open_page: Any, tmp_path: Path) -> None:
    """50 files, one of them broken: progress, a note in its row, sorting, CSV with safe cells."""
    page = open_page(server)
    choose(page, "digits")
    page.locator("#mode-file").click()
    files = [
        {"name": f"{number}-{number % 10}.png", "mimeType": "image/png", "buffer": encode(draw(number % 10))}
        for number in range(49)
    ]
    files.append({"name": "=broken.png", "mimeType": "image/png", "buffer": files[0]["buffer"][:300]})
    page.set_input_files("#pick", files)
    expect(page.locator("#batch-status")).to_have_text("Done: 50 of 50 files, 1 not classified.", timeout=120_000)
    expect(page.locator("#batch-rows tr").last.locator("td.bad")).to_contain_text("damaged")
    assert page.locator("#batch-rows canvas").count() == 49
    page.get_by_role("button", name="Score").click()
    scores = page.locator("#batch-rows td:nth-child(4)").all_inner_texts()
    values = [float(score.removesuffix(" %")) if score else -1 for score in scores]
    assert values == sorted(values, reverse=True)
    check_accessibility(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    download.value.save_as(tmp_path / "predictions.csv")
    with (tmp_path / "predictions.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 50
    right = [row for row in rows if row["file"][-5] == row["label"]]
    assert len(right) > 40
    assert {row["file"] for row in rows if row["error"]} == {"'=broken.png"}


def test_keyboard_alone_draws_a_one_and_opens_the_explanation(server: Server, open_page: Any) -> None:
    """Tab to the pad, draw with arrows and the space bar, tab to Why?, read the sentence about the map."""
    page = open_page(server)
    choose(page, "digits")
    page.locator("#pad").focus()
    page.keyboard.press("Shift+ArrowUp")
    for _ in range(2):
        page.keyboard.press("Shift+ArrowUp")
    page.keyboard.press("Space")
    for _ in range(7):
        page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Space")
    expect(page.locator("#actions")).to_be_visible()
    expect(page.locator("#result b")).to_have_text("1")
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "why-button":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("img", name="The strongest evidence for 1")).to_be_visible()


def test_on_a_phone_nothing_is_cut_off(server: Server, open_page: Any) -> None:
    """At 360 pixels the page does not scroll sideways, the answer is in sight, and several digits can be read."""
    page = open_page(server, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    choose(page, "digits")
    draw_digit(page, 3)
    expect(page.locator("#result b")).to_have_text("3")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    expect(page.locator("#result b")).to_be_in_viewport()
    check_accessibility(page)
    shoot(page, "page-phone")
    page.locator("#mode-file").click()
    sheet = Image.new("L", (600, 400), 235)
    for place, digit in enumerate((4, 2)):
        sheet.paste(draw(digit), (300 * place, 0))
    page.set_input_files("#pick", {"name": "two.png", "mimeType": "image/png", "buffer": encode(sheet)})
    page.get_by_role("button", name="Read each digit").click()
    expect(page.locator("#result b")).to_have_text("4 2")


def test_a_key_is_asked_for_and_kept_in_memory_only(start_server: Any, open_page: Any, tmp_path: Path) -> None:
    """A wrong key is refused in words, the right one works, and a reload forgets it; nothing is stored."""
    (key,) = make_keys(tmp_path / "keys", "predict")
    server = start_server(CONVOKE_API_KEYS_FILE=str(tmp_path / "keys"))
    server.wait_until_ready()
    page = open_page(server)
    for value in ("wrong", key):
        page.get_by_label("Key", exact=True).fill(value)
        if value == "wrong":
            check_accessibility(page)
        page.get_by_role("button", name="Use this key").click()
        if value == "wrong":
            expect(page.locator("#key-message")).to_contain_text("unknown API key")
    choose(page, "digits")
    draw_digit(page, 7)
    expect(page.locator("#result b")).to_have_text("7")
    page.get_by_role("button", name="Code").click()
    expect(page.locator("#code pre")).to_contain_text("$CONVOKE_KEY")
    assert key not in page.content()
    assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    page.reload()
    expect(page.get_by_label("Key", exact=True)).to_be_visible()
