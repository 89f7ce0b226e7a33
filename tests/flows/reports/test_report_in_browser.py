"""The report in headless Chromium: how it is laid out, what it asks of the network, and what a reader does with it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium, which is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]  # root may not use it
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser, report: Path, width: int = 1280, theme: str = "light", motion: str = "reduce"
) -> Iterator[Page]:
    """Open the report; nothing may be fetched but the page, and nothing may be complained of."""
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme=theme,  # type: ignore[arg-type]
        reduced_motion=motion,  # type: ignore[arg-type]
    )
    page = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(report.as_uri())
    try:
        yield page
        assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
        assert complaints == []
    finally:
        context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_and_anyone_can_read_it(browser: Browser, report: Path, width: int, theme: str) -> None:
    """Nothing makes the page scroll sideways, every picture decodes, axe-core finds no barrier (contrast included)."""
    with opened(browser, report, width, theme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        pictures = page.evaluate("Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))")
        assert len(pictures) == 26
        assert min(pictures) > 0
        for summary in page.locator("summary").all():
            if summary.evaluate("each => !each.parentElement.open"):
                summary.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(","))) < 128) == (theme == "dark")


def test_every_link_leads_to_its_section(browser: Browser, report: Path) -> None:
    with opened(browser, report, 360) as page:
        links = page.get_by_role("navigation", name="Sections").get_by_role("link")
        assert links.count() == 10
        for link in links.all():
            link.click()
            heading = page.locator(str(link.get_attribute("href")))
            expect(heading).to_be_in_viewport()
            covered = page.locator("nav").bounding_box()
            box = heading.bounding_box()
            assert covered is not None
            assert box is not None
            assert box["y"] >= covered["y"] + covered["height"] - 1


def test_a_reader_flips_between_source_and_raw_by_keyboard(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        shots = page.locator(".shot img")
        assert shots.count() == 24
        assert sum(shot.is_visible() for shot in shots.all()) == 24
        page.get_by_role("radio", name="side by side").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        expect(page.get_by_role("radio", name="RAW")).to_be_checked()
        assert [shot.get_attribute("alt") for shot in shots.all() if shot.is_visible()] == [
            shot.get_attribute("alt") for shot in page.locator(".shot.raw img").all()
        ]
        boxes = page.locator(".shot.raw :is(.box, .mask)")
        assert page.locator(".shot.raw .mask").count()
        assert any(box.is_visible() for box in boxes.all())
        page.get_by_role("checkbox", name="boxes").press("Space")
        assert not any(box.is_visible() for box in boxes.all())


def test_a_reader_opens_what_is_folded(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        seed = page.locator(".sample").first.get_by_text("Seed", exact=True)
        expect(seed).to_be_hidden()
        page.locator(".sample summary").first.press("Enter")
        expect(seed).to_be_visible()
        expect(page.locator("#rejects ~ .card")).to_contain_text("broken <script>alert(1)<!--.jpg")
        page.get_by_text("The whole recipe").click()
        expect(page.get_by_role("region", name="Recipe")).to_contain_text("canvas:")


def test_the_keyboard_comes_to_the_content_at_once_and_sees_where_it_is(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        page.keyboard.press("Tab")
        skip = page.get_by_role("link", name="Skip to the content")
        expect(skip).to_be_focused()
        expect(skip).to_be_in_viewport()
        page.keyboard.press("Enter")
        expect(page.get_by_role("main")).to_be_focused()
        page.keyboard.press("Tab")
        assert page.evaluate("document.querySelector('main').contains(document.activeElement)")
        page.get_by_role("link", name="Quality").focus()
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.parametrize(("motion", "behaviour"), [("reduce", "auto"), ("no-preference", "smooth")])
def test_motion_is_the_readers_choice(browser: Browser, report: Path, motion: str, behaviour: str) -> None:
    with opened(browser, report, motion=motion) as page:
        assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == behaviour
