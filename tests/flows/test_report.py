import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flows.artifacts import artifact_key
from storage.recipe import Recipe
from tests.flows.conftest import Run, small_recipe, write_photograph

CHROMIUM = shutil.which("chromium")
NASTY = "<script>alert(1)<!--"


@pytest.fixture(scope="module")
def report(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a dataset whose corpus holds files with names that want to be markup."""
    folder = tmp_path_factory.mktemp("report")
    photographs = folder / "photographs"
    photographs.mkdir()
    for number in range(4):
        write_photograph(photographs / f"{number} {NASTY}.png", 64, 96, number)
    (photographs / f"broken {NASTY}.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    recipe: Recipe = small_recipe(photographs, keep_srgb=False)
    return Path(run(recipe, folder / "dataset").report_url)


class Page(HTMLParser):
    """Notes what a page refers to and how it is built."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.tags: list[str] = []
        self.pictures: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        found = dict(attrs)
        self.references += [value for name in ("src", "href") if (value := found.get(name))]
        if tag == "img":
            self.pictures.append(found)


def parsed(report: Path) -> Page:
    page = Page()
    page.feed(report.read_text(encoding="utf-8"))
    return page


def test_the_report_needs_nothing_else_and_runs_nothing(report: Path) -> None:
    page = parsed(report)
    assert all(reference.startswith(("#", "data:image/jpeg;base64,")) for reference in page.references)
    assert "script" not in page.tags
    assert NASTY not in report.read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import", report.read_text(encoding="utf-8"))


def test_the_report_shows_pictures_even_if_the_source_pixels_are_not_kept(report: Path) -> None:
    page = parsed(report)
    assert len(page.pictures) == 3 * 6 + 3  # triptychs, and sheets of other cameras
    assert all(picture["alt"] for picture in page.pictures)


def test_the_report_can_be_read_without_seeing_it(report: Path) -> None:
    page = parsed(report)
    text = report.read_text(encoding="utf-8")
    assert page.tags.count("h1") == 1
    assert page.tags.count("main") == 1
    assert '<html lang="en">' in text
    assert len(re.findall(r'<svg[^>]+role="img" aria-label="Histogram of', text)) == page.tags.count("svg") > 4
    for table in re.findall(r"<table>.*?</table>", text, re.DOTALL):
        assert 'scope="row"' in table


@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium, which is not installed")
@pytest.mark.parametrize("width", [375, 1280])
def test_a_browser_shows_the_report(report: Path, width: int, tmp_path: Path) -> None:
    """The page fits its width (nothing makes the whole of it scroll sideways) and every picture decodes."""
    probe = (
        "<script>addEventListener('load', () => {"
        "const page = document.querySelector('iframe').contentDocument;"
        "const shown = [...page.images].filter(image => image.naturalWidth > 0).length;"
        "document.title = `wide ${page.documentElement.scrollWidth} images ${shown}`})</script>"
    )
    frame = tmp_path / "frame.html"
    frame.write_text(f'<iframe src="{report.as_uri()}" style="width:{width}px;height:9000px;border:0"></iframe>{probe}')
    shown = subprocess.run(
        [
            str(CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--virtual-time-budget=20000", "--dump-dom", frame.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    title = re.search(r"<title>wide (\d+) images (\d+)</title>", shown)
    assert title, shown[-500:]
    assert int(title[1]) <= width
    assert int(title[2]) == 21


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("s3://bucket/Street Photos_2", "quality-street-photos-2"),
        ("/data/Ünïcode/", "quality-n-code"),
        ("/data/***", "quality-dataset"),
    ],
)
def test_artifact_keys_have_only_what_prefect_takes(url: str, key: str) -> None:
    assert artifact_key("quality", url) == key
