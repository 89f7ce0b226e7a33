"""Take the pictures of the README: a demo run in the Prefect UI, and its report. ``make pictures``.

Everything runs on this machine, in a folder that is thrown away: a Prefect server, an S3 server, a Dask cluster, the
demo's photographs with two files that cannot be used, and headless Chromium. The pictures go to docs/pictures/.
"""

import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import s3fs
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from flows.commands.demo import demo_recipe, lay_out_photographs
from flows.commands.run import FinishedRun, RunSettings, run_factory
from flows.reports.artifacts import artifact_key
from flows.servers.server import prefect_server
from storage.objects.location import locate
from tests.conftest import run_s3_server

FOLDER: Final = Path(__file__).parent / "pictures"
MOST_BYTES: Final = 300_000
_COLOURS: Final = (256, 128, 64)


def main() -> None:
    """Make a run, look at it, and write the pictures."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("The browser chromium is not installed; install it (apt install chromium) and run again.")
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["AURA_HOME"] = str(Path(folder) / "home")
        os.environ.pop("PREFECT_API_URL", None)
        (Path(folder) / "s3").mkdir()
        with prefect_server() as server, run_s3_server(Path(folder) / "s3") as storage:
            os.environ |= storage.environment()
            s3fs.S3FileSystem().mkdir("raw")
            run = make_run(Path(folder) / "street")
            page = Path(folder) / "report.html"
            page.write_bytes(locate(run.result.report_url).read())
            with sync_playwright() as playwright:
                sandbox = [] if os.geteuid() else ["--no-sandbox"]  # root may not use it
                browser = playwright.chromium.launch(executable_path=chromium, args=sandbox)
                take_ui(browser, server.ui_url, run)
                take_report(browser, page.as_uri())
                browser.close()


def make_run(folder: Path) -> FinishedRun:
    """Run the demo's recipe over its photographs and two files that are to be rejected."""
    corpus = folder / "photographs"
    lay_out_photographs(corpus)
    (corpus / "broken.jpg").write_bytes((corpus / "rocket.jpg").read_bytes()[:20_000])
    (corpus / "copy of coffee.png").write_bytes((corpus / "coffee.png").read_bytes())
    recipe = demo_recipe(corpus, None)
    gates = recipe.gates.model_copy(update={"max_reject_fraction": 0.5})
    recipe = recipe.model_copy(update={"gates": gates})
    return run_factory(recipe, "s3://raw/street", RunSettings(cluster="local:1"))


def take_ui(browser: Browser, ui_url: str, run: FinishedRun) -> None:
    """Take the run's page and two of its artifacts."""
    run_id = run.result.flow_run_id
    wanted = {"flow_runs": {"id": {"any_": [run_id]}}}
    artifacts = httpx.post(f"{ui_url}/api/artifacts/filter", json=wanted).raise_for_status().json()
    places = {artifact["key"]: artifact["id"] for artifact in artifacts}
    with opened(browser, f"{ui_url}/runs/flow-run/{run_id}", (1280, 860), "light") as page:
        page.get_by_text("Version 1 published").or_(page.get_by_text("shards are to be made")).first.wait_for()
        settled(page)
        take(page, "prefect-run")
    for kind in ("contact-sheet", "rejects"):
        with opened(
            browser,
            f"{ui_url}/artifacts/artifact/{places[artifact_key(kind, run.result.dataset_url)]}",
            (1280, 860),
            "light",
        ) as page:
            page.get_by_text("Show raw data").wait_for()
            settled(page)
            take(page, f"prefect-{kind}")


def settled(page: Page) -> None:
    """Wait until nothing is loaded any more and the time line has stopped moving."""
    page.wait_for_load_state("networkidle")
    before = b""
    while (now := page.screenshot()) != before:
        before = now
        page.wait_for_timeout(500)


def take_report(browser: Browser, report: str) -> None:
    """Take the report as a reader at a desk and one on a phone sees it."""
    with opened(browser, report, (1280, 1000), "light") as page:
        take(page, "report-light")
    with opened(browser, report, (1280, 1000), "dark") as page:
        page.evaluate("document.querySelector('#noise').scrollIntoView()")
        take(page, "report-dark")
    with opened(browser, report, (360, 780), "dark") as page:
        page.evaluate("document.querySelector('.sample:has(.box)').scrollIntoView()")
        take(page, "report-phone")


@contextmanager
def opened(browser: Browser, url: str, size: tuple[int, int], theme: str) -> Iterator[Page]:
    """Open a page in a window of its own."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=theme,  # type: ignore[arg-type]
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(url)
    yield page
    context.close()


def take(page: Page, name: str, prepare: Callable[[Image.Image], Image.Image] = lambda image: image) -> None:
    """Write what the window shows, in as many colours as fit into the size that is allowed."""
    image = prepare(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
    for colours in _COLOURS:
        data = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(data, "PNG", optimize=True)
        if data.tell() <= MOST_BYTES:
            break
    else:
        raise ValueError(f"{name}.png has {data.tell()} bytes even with {colours} colours; take a smaller window.")
    (FOLDER / f"{name}.png").write_bytes(data.getvalue())
    print(f"{FOLDER / name}.png: {image.width} x {image.height}, {data.tell() / 1000:.0f} kB")


if __name__ == "__main__":
    main()
