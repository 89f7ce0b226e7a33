import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flows.progress import duration
from flows.reports.artifacts import artifact_key, plain, web_address
from flows.reports.charts import histogram
from flows.reports.quality import MEASURES
from flows.reports.reading_code import reading_examples
from storage.datasets.sealed import page_is_intact
from tests.flows.conftest import NASTY, Aura


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


@pytest.fixture(scope="module")
def text(report: Path) -> str:
    return report.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    parsed = Page()
    parsed.feed(text)
    return parsed


def test_the_report_needs_nothing_else_and_runs_nothing(report: Path, page: Page, text: str) -> None:
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    assert "script" not in page.tags
    assert NASTY not in text
    assert text.count("&lt;script&gt;alert(1)&lt;!--") > 8  # names, categories, and the folder of each
    assert not re.search(r"url\((?!data:image/png;base64,)|@import", text)
    assert "default-src 'none'" in text
    assert page_is_intact(report.read_bytes())
    assert len(text) < 2_000_000


def test_the_report_shows_the_ends_even_if_the_source_pixels_are_not_kept(page: Page) -> None:
    assert len(page.pictures) == 3 * 8 + 2  # all eight samples are among the ends, and sheets of other cameras
    assert all(picture["alt"] for picture in page.pictures)


def test_the_report_can_be_read_without_seeing_it(page: Page, text: str) -> None:
    assert page.tags.count("h1") == page.tags.count("main") == page.tags.count("nav") == 1
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert '<html lang="en">' in text
    for chart in re.findall(r"<svg[^>]*>", text):
        assert 'aria-hidden="true"' in chart or re.search(r'role="img" aria-label="[^"]{30,}"', chart)
    tables = re.findall(r"<table>.*?</table>", text, re.DOTALL)
    assert len(tables) == 3
    for table in tables:
        assert 'scope="row"' in table
        assert 'scope="col"' in table
        assert "<caption>" in table


def test_the_report_says_what_a_reader_asks(text: str) -> None:
    for said in (
        "1 of 5 files of the corpus gave no sample",
        "max_reject_fraction</code> holds",
        "Samples by camera and ISO",
        "Noise at middle grey over ISO: from",
        "Red gain",
        "DN/e⁻",
        "RawLoader(stream",
        "versions/000002.json",
        "8 samples in 4 shards",
    ):
        assert said in text, said
    assert text.count('class="box"') >= 8
    assert text.count('class="mask"') >= 8
    assert "boxes and masks" in text


def test_a_histogram_holds_every_sample_once_and_says_so() -> None:
    values = [0.1, 0.2, 0.2, 0.9, float("inf"), 1.1]
    shown = histogram("Title", "Meaning.", values, "EV")
    assert sum(int(bar.said.split()[0]) for bar in shown.bars) == 5
    assert all(0 <= bar.x <= 100 and bar.y >= 0 and bar.y + bar.height <= 100.01 for bar in shown.bars)
    assert [tick.text for tick in shown.ticks] == ["0.2 EV", "0.4 EV", "0.6 EV", "0.8 EV", "1 EV"]
    assert shown.median_at == pytest.approx(10)
    assert shown.summary == "5 samples: median 0.20 EV, nine of ten between 0.12 EV and 1.06 EV."
    assert histogram("Title", "Meaning.", [2.0, 2.0], "EV").same == "2.00 EV"
    assert len(MEASURES) == len({measure.title for measure in MEASURES})


def test_the_code_on_the_page_runs_as_it_stands(report: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training, single, neutral, command = reading_examples(str(report.parent.parent), 2, 16)
    for example in (training, single, neutral):
        scope: dict[str, object] = {"__name__": "example"}
        exec(compile(example.code.replace("num_workers=2", "num_workers=0"), example.title, "exec"), scope)  # noqa: S102
        assert {"raw", "sample", "first"} & scope.keys()
    assert "canon-eos-5d-mark-iv" in (said := capsys.readouterr().out) or "sony-ilce-7sm2" in said
    assert command.code.count("aura ") == 4


def test_the_command_line_fetches_the_page_and_renews_the_boxes(
    report: Path, aura: Aura, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = report.parent.parent
    assert aura("report", str(dataset), "--out", str(tmp_path / "page.html")) == 0
    assert (tmp_path / "page.html").read_bytes() == report.read_bytes()
    assert aura("annotate", str(dataset), str(dataset.parent / "instances.json")) == 0
    assert "Version 2 of" in capsys.readouterr().out  # the same boxes are the same version
    assert aura("annotate", str(dataset), str(dataset)) == 2
    assert "expected a COCO .json file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "name"),
    [("s3://bucket/Street Photos_2", "street-photos-2"), ("/data/Ünïcode/", "n-code"), ("/data/***", "dataset")],
)
def test_artifact_keys_have_only_what_prefect_takes(url: str, name: str) -> None:
    assert re.fullmatch(f"quality-{name}-[0-9a-f]{{6}}", artifact_key("quality", url))


def test_artifacts_of_datasets_with_one_name_have_keys_of_their_own() -> None:
    keys = [artifact_key("quality", url) for url in ("s3://a/demo", "s3://a/demo/", "s3://b/demo", "/home/me/demo")]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


def test_a_link_to_an_object_is_one_that_a_browser_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://key:secret@127.0.0.1:8333/")
    assert web_address("s3://raw/a b/reports/000001.html") == "http://127.0.0.1:8333/raw/a%20b/reports/000001.html"
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert web_address("s3://raw/a/1.html") == "https://raw.s3.amazonaws.com/a/1.html"
    assert web_address("/data/a b/1.html") == "file:///data/a%20b/1.html"


def test_names_stay_names_in_markdown() -> None:
    assert plain("[x](javascript:y) <b> *_`") == r"\[x\]\(javascript:y\) \<b\> \*\_\`"
    assert [duration(seconds) for seconds in (40, 89.7, 720, 11_100)] == ["40 s", "90 s", "12 min", "3 h 05 min"]
