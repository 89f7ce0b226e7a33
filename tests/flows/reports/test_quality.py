from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.errors import GateError
from flows.reports.pictures import candidates, choose_ends, choose_rows, quality_words
from flows.reports.quality import (
    MEASURES,
    Distribution,
    Quality,
    check_gates,
    distributions_of,
    figure,
    quality_row,
    require_gates,
)
from flows.shards.sample import needs_lpips
from storage.recipe import Gates


def quality_of(rejected: Mapping[str, int] | None = None, sources: int = 10, **columns: list[float | None]) -> Quality:
    length = max(map(len, columns.values()), default=0)
    filled = {name: values + [None] * (length - len(values)) for name, values in columns.items()}
    empty: list[float | None] = [None] * length
    table = pa.table({each.column: pa.array(filled.get(each.column, empty), pa.float32()) for each in MEASURES})
    return Quality(table, table.slice(0, 0), sources, rejected or {}, tuple(distributions_of(table)))


def test_a_distribution_leaves_out_what_was_not_measured_or_is_infinite() -> None:
    quality = quality_of(cycle_psnr_db=[30.0, None, 20.0, np.inf], cycle_lpips=[None, None, None, None])
    (distribution,) = quality.distributions
    assert distribution.values.tolist() == [20.0, 30.0]
    assert quality.mean("cycle_psnr_db") == 25.0
    assert quality.mean("cycle_lpips") is None


def test_featureless_samples_are_exact_and_not_the_best() -> None:
    table = pa.table({"index": [0, 1, 2], "cycle_psnr_matched_db": pa.array([30.0, np.inf, 20.0], pa.float32())})
    assert [row["index"] for row in candidates(table)] == [0, 2]
    assert candidates(table.slice(1, 1)) == table.slice(1, 1).to_pylist()  # better than no picture
    quality = quality_of(cycle_psnr_matched_db=[30.0, np.inf, 20.0, None])
    row = quality_row(quality.distributions[0])
    assert row["samples"] == "2, 1 exact"
    assert figure(np.inf, "dB") == "exact"
    assert quality_words({"cycle_psnr_matched_db": np.inf}) == ("exact when tone matched",)
    assert quality_words({"cycle_psnr_matched_db": 31.26}) == ("31.3 dB tone matched",)
    assert quality_words({"cycle_psnr_matched_db": None}) == ()


def test_gates_that_hold_say_nothing() -> None:
    quality = quality_of({"damaged": 2}, cycle_psnr_matched_db=[30.0, 32.0], cycle_lpips=[0.1])
    require_gates(quality, Gates(min_cycle_psnr_matched=31.0, max_cycle_lpips=0.11, max_reject_fraction=0.2))
    require_gates(quality, Gates(max_reject_fraction=None))


@pytest.mark.parametrize(
    ("gates", "said"),
    [
        (Gates(min_cycle_psnr_matched=40), "min_cycle_psnr_matched asks for 40 dB: mean 31.000 dB, 9.000 dB short"),
        (Gates(min_cycle_psnr=20), "min_cycle_psnr asks for 20 dB: nothing was measured"),
        (Gates(min_cycle_ssim=0.9), "min_cycle_ssim asks for 0.9: mean 0.800, 0.100 short"),
        (Gates(max_cycle_lpips=0.2), "max_cycle_lpips allows 0.2: mean 0.250, 0.050 over"),
        (Gates(max_reject_fraction=0.1), "max_reject_fraction allows 10.0%: 2 of 10 sources were rejected, 20.0%"),
    ],
)
def test_a_gate_that_fails_says_by_how_much(gates: Gates, said: str) -> None:
    quality = quality_of(
        {"damaged": 1, "duplicate": 1}, cycle_psnr_matched_db=[30.0, 32.0], cycle_ssim=[0.8], cycle_lpips=[0.25]
    )
    with pytest.raises(GateError, match="not published") as failure:
        require_gates(quality, gates)
    assert said in str(failure.value)


def rows_of(values: list[float | None], sources: list[int]) -> list[dict[str, Any]]:
    return [
        {"index": place, "cycle_psnr_matched_db": value, "source_sha256": f"{source}"}
        for place, (value, source) in enumerate(zip(values, sources, strict=True))
    ]


@given(st.lists(st.tuples(st.none() | st.floats(0, 60), st.integers(0, 3)), min_size=1, max_size=20), st.integers(1, 8))
def test_chosen_rows_go_from_the_worst_to_the_best(pairs: list[tuple[float | None, int]], count: int) -> None:
    rows = rows_of([value for value, _ in pairs], [source for _, source in pairs])
    chosen = choose_rows(rows, count)
    places = [row["index"] for row in chosen]
    assert len(chosen) == len(set(places)) == min(count, len(rows))
    values = [row["cycle_psnr_matched_db"] for row in chosen if row["cycle_psnr_matched_db"] is not None]
    assert values == sorted(values)
    measured = [value for value, _ in pairs if value is not None]
    if measured and len(chosen) > 1:
        assert values[-1] == max(measured)


def test_chosen_rows_show_different_sources_where_there_are_enough() -> None:
    rows = rows_of([10, 11, 12, 20, 21, 30], [0, 0, 0, 1, 1, 2])
    chosen = choose_rows(rows, 3)
    assert (chosen[0]["index"], chosen[-1]["index"]) == (0, 5)
    assert {row["source_sha256"] for row in chosen} == {"0", "1", "2"}


@given(st.lists(st.tuples(st.none() | st.floats(0, 60), st.integers(0, 3)), min_size=1, max_size=20), st.integers(1, 4))
def test_the_ends_begin_with_the_very_worst_and_the_very_best(
    pairs: list[tuple[float | None, int]], count: int
) -> None:
    rows = rows_of([value for value, _ in pairs], [source for _, source in pairs])
    chosen = choose_ends(rows, count)
    assert list(chosen) == ["worst", "typical", "best"]
    places = [row["index"] for group in chosen.values() for row in group]
    assert len(places) == len(set(places)) == min(3 * count, len(rows))
    ranked = sorted(rows, key=lambda row: (row["cycle_psnr_matched_db"] is not None, row["cycle_psnr_matched_db"] or 0))
    key = "cycle_psnr_matched_db"
    assert chosen["worst"][0][key] == ranked[0][key]
    if len(rows) > 1:
        assert chosen["best"][0][key] == ranked[-1][key]


def test_of_many_samples_the_ends_and_the_median_are_the_same_as_of_all() -> None:
    values = np.random.default_rng(0).permutation(10_001) / 100
    table = pa.table(
        {
            "index": list(range(10_001)),
            "cycle_psnr_matched_db": values,
            "source_uri": [str(number) for number in range(10_001)],
            "source_sha256": [f"{number:064x}" for number in range(10_001)],
        }
    )
    few, every = candidates(table), table.to_pylist()
    assert len(few) == 3000
    for count in (1, 3):
        assert choose_ends(few, count)["worst"] == choose_ends(every, count)["worst"]
        assert choose_ends(few, count)["best"] == choose_ends(every, count)["best"]
    (typical,) = choose_ends(few, 1)["typical"]
    assert abs(typical["cycle_psnr_matched_db"] - 50.0) <= 0.01


def test_a_mean_of_drawn_samples_comes_with_its_standard_error() -> None:
    drawn, counted = (
        Distribution(next(each for each in MEASURES if each.column == column), np.array([0.1, 0.2, 0.3, 0.4]))
        for column in ("cycle_lpips", "cycle_ssim")
    )
    assert quality_row(drawn)["mean"] == "0.2500 ± 0.0645"
    assert quality_row(counted)["mean"] == "0.2500"
    assert quality_row(replace(drawn, values=np.array([0.1])))["mean"] == "0.1000"


def test_lpips_is_measured_on_about_the_share_that_is_asked_for() -> None:
    names = [f"sample-{number}" for number in range(2000)]
    assert not any(needs_lpips(name, 0.0) for name in names)
    assert all(needs_lpips(name, 1.0) for name in names)
    assert 0.2 < np.mean([needs_lpips(name, 0.25) for name in names]) < 0.3


def test_samples_that_are_all_exact_pass_any_gate_of_psnr() -> None:
    """No decibel is too many for what renders back to the very source, such as flat or black frames."""
    quality = quality_of(cycle_psnr_db=[np.inf, np.inf, None], cycle_psnr_matched_db=[np.inf, np.inf, None])
    require_gates(quality, Gates(min_cycle_psnr=99, min_cycle_psnr_matched=99))
    assert [check.found for check in check_gates(quality, Gates(min_cycle_psnr=99, max_reject_fraction=None))] == [
        "all exact"
    ]
    assert quality.means["cycle_psnr_db"] == np.inf


def test_a_figure_that_is_no_number_passes_no_gate() -> None:
    quality = quality_of(cycle_psnr_db=[np.nan])
    with pytest.raises(GateError, match="nothing was measured"):
        require_gates(quality, Gates(min_cycle_psnr=1))
    assert quality.means == {}
