"""The README quotes only figures that a benchmark wrote, and its examples run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COLUMNS = {
    "PSNR aligned, dB": ("psnr_aligned", ".1f"),
    "PSNR as is, dB": ("psnr", ".1f"),
    "SSIM aligned": ("ssim_aligned", ".3f"),
    "LPIPS aligned": ("lpips_aligned", ".3f"),
    "LPIPS binned": ("lpips_aligned_binned", ".3f"),
    "CIEDE2000 aligned": ("ciede2000_aligned", ".1f"),
    "way to the ceiling": ("way_to_ceiling", ".0%"),
}


def fidelity_rows() -> list[dict[str, str]]:
    block = re.search(r"<!-- fidelity -->\n(.*?)<!-- /fidelity -->", README, re.DOTALL)
    assert block, "the README has lost its fidelity table"
    lines = [line for line in block[1].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_every_figure_of_the_fidelity_table_is_the_benchmarks() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "fidelity.json").read_text())["figures"]
    rows = fidelity_rows()
    assert {row["method"] for row in rows} >= {"linearise", "upi", "aura", "ceiling"}
    for row in rows:
        group = row["photographs by"].split(" ")[0]
        for heading, (metric, spec) in COLUMNS.items():
            quoted = row[heading]
            if quoted != "-":
                assert quoted == format(figures[f"{group}/{row['method']}/{metric}"]["value"], spec), (row, heading)


def test_every_figure_of_the_reader_is_the_benchmarks() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "reader.json").read_text())["figures"]
    block = re.search(r"<!-- reader -->\n(.*?)<!-- /reader -->", README, re.DOTALL)
    assert block, "the README has lost its table of the reader"
    rows = re.findall(r"^\| .* \| `([\w/ -]+)` \| ([\d.]+) \|$", block[1], re.MULTILINE)
    assert {key for key, _ in rows} >= {"ratio_to_best_peer_s3", "ratio_to_best_peer_local", "bits_per_pixel"}
    for key, quoted in rows:
        assert quoted == f"{figures[key]['value']:.2f}", key


def test_every_figure_of_the_scale_is_the_benchmarks() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "plan_scale.json").read_text())["figures"]
    block = re.search(r"<!-- scale -->\n(.*?)<!-- /scale -->", README, re.DOTALL)
    assert block, "the README has lost its table of large corpora"
    rows = re.findall(r"^\| .* \| `([\w/]+)` \| ([\d.,]+) \|$", block[1], re.MULTILINE)
    assert {key for key, _ in rows} >= {"rows", "rows/peak_memory", "shards", "shards/scheduling_per_shard"}
    for key, quoted in rows:
        assert quoted == f"{figures[key]['value']:,.0f}", key


def test_every_figure_of_the_chaos_campaign_is_the_benchmarks() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "chaos.json").read_text())["figures"]
    block = re.search(r"<!-- chaos -->\n(.*?)<!-- /chaos -->", README, re.DOTALL)
    assert block, "the README has lost its table of the campaign"
    rows = re.findall(r"^\| .* \| `(\w+)` \| (\d+) \|$", block[1], re.MULTILINE)
    assert {key for key, _ in rows} >= {"runs", "kills", "samples_lost", "samples_doubled", "runs_not_identical"}
    for key, quoted in rows:
        assert quoted == str(figures[key]["value"]), key


def test_every_figure_of_the_detector_is_the_benchmarks() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "detection.json").read_text())["figures"]
    block = re.search(r"<!-- detection -->\n(.*?)<!-- /detection -->", README, re.DOTALL)
    assert block, "the README has lost its table of the detector"
    rows = re.findall(r"^\| `(\w+)` \| (\w+ light) \| (.*) \|$", block[1], re.MULTILINE)
    assert {name for name, *_ in rows} == {"all_light", "bright_only", "untrained", "constant"}
    for name, light, cells in rows:
        quoted = dict(zip(("ap", "ap50", "ap50_person", "loss"), cells.split(" | "), strict=True))
        for metric, text in quoted.items():
            figure = figures.get(f"{name}/{light.replace(' ', '_')}/{metric}", {"value": None})["value"]
            expected = "-" if figure is None else format(figure, ".2f" if metric == "loss" else ".3f")
            assert text == expected, (name, light, metric)
    counts = [figures[key]["value"] for key in ("photographs", "held_out_photographs", "held_out_objects")]
    found = re.search(r"with (\d+) photographs of COCO and scores (\d+) others \((\d+) objects\)", block[1])
    assert found
    assert [int(number) for number in found.groups()] == counts


def test_every_figure_of_the_two_nights_is_the_benchmarks() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "schedule.json").read_text())["figures"]
    block = re.search(r"<!-- schedule -->\n(.*?)<!-- /schedule -->", README, re.DOTALL)
    assert block, "the README has lost its two nights"
    rows = re.findall(r"^\| .* \| `(\w+)` \| (\d+) \| (\d+) \|$", block[1], re.MULTILINE)
    assert {key for key, *_ in rows} == {"photographs", "samples", "shards_made"}
    for key, *quoted in rows:
        assert quoted == [str(figures[f"{key}_{night}"]["value"]) for night in ("first", "second")], key
    assert f"rewrote: {figures['shards_rewritten_by_second']['value']}." in block[1]


def test_every_figure_of_the_trained_denoisers_is_the_benchmarks() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "downstream.json").read_text())["figures"]
    block = re.search(r"<!-- downstream -->\n(.*?)<!-- /downstream -->", README, re.DOTALL)
    assert block, "the README has lost its table of trained denoisers"
    rows = re.findall(r"^\| .* \| `(\w+)` \| ((?:[\d.]+ \| ){4}[\d.]+) \|$", block[1], re.MULTILINE)
    assert {arm for arm, _ in rows} == {"noisy", "linear_white", "upi", "factory", "real", "mixed"}
    for arm, cells in rows:
        for condition, quoted in zip(
            ("iso800", "iso3200", "iso6400", "iso6400_ev-3", "all"), cells.split(" | "), strict=True
        ):
            assert quoted == f"{figures[f'{arm}/{condition}']['value']:.2f}", (arm, condition)
    differences = re.findall(r"^\| .* \| `(\w+_db)` \| (-?[\d.]+) \| ([\d.]+) \|", block[1], re.MULTILINE)
    assert {key for key, *_ in differences} >= {"factory_minus_upi_db", "factory_minus_real_db", "mixed_minus_real_db"}
    for key, value, spread in differences:  # a difference and how far it varies from seed to seed
        assert [value, spread] == [f"{figures[key][part]:.2f}" for part in ("value", "spread")], key


@pytest.mark.parametrize("name", ["fidelity", "photograph_noise"])
def test_what_the_tables_of_quality_quote_was_measured_with_the_released_weights(name: str) -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    card = json.loads((ROOT / "aura" / "weights" / "aura.json").read_text())
    assert measured["weights_sha256"] == card["sha256"]


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("factory", {"ratio_to_network_alone", "megapixels_per_second", "ratio_to_plain_loop", "bytes_per_pixel"}),
        ("photograph_noise", {"aura/noise_left_iso6400", "aura_global/noise_left_iso6400"}),
        ("model", {"speed_ratio_to_published_f32", "megapixels_per_second", "peak_memory_24mp"}),
    ],
)
def test_every_figure_of_speed_and_noise_is_the_benchmarks(name: str, least: set[str]) -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())["figures"]
    block = re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", README, re.DOTALL)
    assert block, f"the README has lost its table of the {name}"
    rows = re.findall(r"^\| .* \| `([^`]+)` \| ([\d.,]+) \|$", block[1], re.MULTILINE)
    assert {key for key, _ in rows} >= least
    for key, quoted in rows:
        assert quoted == f"{figures[key]['value']:,.2f}", key


def test_every_file_it_links_to_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


@pytest.mark.parametrize("package", ["aura", "storage", "flows"])
def test_the_map_names_files_that_exist(package: str) -> None:
    row = next(line for line in README.splitlines() if line.startswith(f"| [{package}/]"))
    for name in re.findall(r"`([a-z_]+/?)`", row):
        path = ROOT / package / name
        assert path.is_dir() or path.with_suffix(".py").is_file(), f"{package}/{name}"
