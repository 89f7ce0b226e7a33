"""How good a dataset is: the distributions of what was measured on its samples, and the recipe's gates on them."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from aura.errors import GateError
from storage.datasets.dataset import Dataset
from storage.datasets.history import present_sources
from storage.datasets.samples import LICENCE_COLUMN
from storage.recipe import Gates

_READERS: Final = 8
_TABLES_AT_ONCE: Final = 256
_NAMED_SHARDS: Final = 3


@dataclass(frozen=True)
class Measure:
    """A figure that each sample carries.

    Attributes:
        column: its column in the samples table.
        title: what a person calls it.
        unit: "dB", or empty for a ratio.
        better: "higher", "lower", or empty where neither is.
        meaning: one sentence for the report.
        on_share: it is taken on a drawn share of the samples, so that its mean is an estimate.
    """

    column: str
    title: str
    unit: str
    better: str
    meaning: str
    on_share: bool = False


MEASURES: Final = (
    Measure(
        "cycle_psnr_matched_db",
        "Cycle PSNR, tone matched",
        "dB",
        "higher",
        "RAW rendered back against the source, after exposure and tone are matched per channel; a sample without any "
        "feature, such as a patch of one colour, matches exactly, whatever the RAW, and does not count.",
    ),
    Measure(
        "cycle_psnr_db",
        "Cycle PSNR, as is",
        "dB",
        "higher",
        "RAW rendered back by the plain reference renderer against the source; a tone curve that was undone counts.",
    ),
    Measure("cycle_ssim_matched", "Cycle SSIM, tone matched", "", "higher", "Structure, after the same matching."),
    Measure("cycle_ssim", "Cycle SSIM, as is", "", "higher", "Structural similarity to the source's luma, 1 is equal."),
    Measure(
        "cycle_lpips_matched",
        "Cycle LPIPS, tone matched",
        "",
        "lower",
        "Perceptual distance after the same matching, on a share of the samples; the mean with its standard error.",
        on_share=True,
    ),
    Measure(
        "cycle_lpips",
        "Cycle LPIPS, as is",
        "",
        "lower",
        "Perceptual distance, 0 is equal; on a share of the samples, the mean with its standard error.",
        on_share=True,
    ),
    Measure("clipped_fraction", "Clipped fraction", "", "", "Share of RAW values at the sensor's white level."),
)


@dataclass(frozen=True)
class Distribution:
    """A measure over all samples that have it.

    Attributes:
        measure: what was measured.
        values: finite values, ascending, float64.
        exact: samples of infinite value, whose RAW renders back to the very source; they have no part in the figures.
    """

    measure: Measure
    values: np.ndarray
    exact: int = 0

    @property
    def mean(self) -> float:
        """Arithmetic mean."""
        return float(self.values.mean())

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean, of samples that are drawn; None of a single one."""
        size = self.values.size
        return float(self.values.std(ddof=1) / np.sqrt(size)) if size > 1 else None

    def quantile(self, share: float) -> float:
        """Value below which ``share`` of the samples lie."""
        return float(np.quantile(self.values, share))


@dataclass(frozen=True)
class Quality:
    """What is known about a dataset's samples.

    Attributes:
        samples: rows of all committed shards, by index.
        rejected_samples: rows of what could not be made.
        sources: files that the corpus holds.
        rejected_sources: number of files that gave no sample, by reason.
        distributions: one for each measure that any sample has.
    """

    samples: pa.Table
    rejected_samples: pa.Table
    sources: int
    rejected_sources: Mapping[str, int]
    distributions: tuple[Distribution, ...]

    @property
    def reject_fraction(self) -> float:
        """Share of the corpus' files that could not be used, in [0, 1]."""
        return sum(self.rejected_sources.values()) / max(1, self.sources)

    def mean(self, column: str) -> float | None:
        """Mean of a measure where it is finite; infinite if every sample that has it is exact, None if none has it."""
        finite = (each.mean for each in self.distributions if each.measure.column == column)
        exact = pc.any(pc.equal(self.samples[column], math.inf)).as_py()
        return next(finite, math.inf if exact else None)

    @property
    def means(self) -> dict[str, float]:
        """Mean of each measure that any sample has, by column; see :meth:`mean`."""
        found = {each.column: self.mean(each.column) for each in MEASURES}
        return {column: mean for column, mean in found.items() if mean is not None}


def measure_quality(dataset: Dataset, index: pa.Table, shards: Iterable[int]) -> Quality:
    """Gather what the tables of a dataset say; no sample is read.

    Args:
        dataset: the dataset.
        index: the corpus as it was listed last; samples of photographs that have left it do not count.
        shards: the committed shards that count.
    """
    numbers = list(shards)
    samples, rejected = _gathered(dataset.samples, numbers), _gathered(dataset.rejects, numbers)
    if dataset.listings > 1:
        samples, rejected = _of_now(dataset, index, samples, rejected)
    refused = [reason for reason in index["reject_reason"].to_pylist() if reason is not None]
    unusable = dict(zip(rejected["source_sha256"].to_pylist(), rejected["reason"].to_pylist(), strict=True))
    return Quality(
        samples=samples,
        rejected_samples=rejected,
        sources=index.num_rows,
        rejected_sources=dict(Counter([*refused, *unusable.values()]).most_common()),
        distributions=tuple(distributions_of(samples)),
    )


def _gathered(read: Callable[[int], pa.Table], shards: Sequence[int]) -> pa.Table:
    """Put the tables of shards together, in memory that grows with their rows and not with their number."""
    pieces = []
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(shards), _TABLES_AT_ONCE):
            tables = pool.map(read, shards[start : start + _TABLES_AT_ONCE])
            pieces.append(pa.concat_tables(tables).combine_chunks())
    return pa.concat_tables(pieces).sort_by("index")


def _of_now(dataset: Dataset, index: pa.Table, samples: pa.Table, rejected: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Leave out photographs that have left the corpus, and rejects that a later growth has tried again."""
    starts = [start for start, _ in dataset.spans]
    last_tried: dict[str, int] = {}
    for table in (samples, rejected):
        for place, digest in zip(table["index"].to_pylist(), table["source_sha256"].to_pylist(), strict=True):
            last_tried[digest] = max(last_tried.get(digest, 0), bisect_right(starts, place))
    present = present_sources(index)
    in_use = [digest in present for digest in samples["source_sha256"].to_pylist()]
    still = [
        digest in present and bisect_right(starts, place) == last_tried[digest]
        for place, digest in zip(rejected["index"].to_pylist(), rejected["source_sha256"].to_pylist(), strict=True)
    ]
    return samples.filter(pa.array(in_use, pa.bool_())), rejected.filter(pa.array(still, pa.bool_()))


def distributions_of(samples: pa.Table) -> Iterable[Distribution]:
    """Yield the distribution of each measure that any sample has; infinite values (a perfect cycle) are left out."""
    for measure in MEASURES:
        values = samples[measure.column].drop_null().to_numpy().astype(np.float64)
        finite = np.sort(values[np.isfinite(values)])
        if finite.size:
            yield Distribution(measure, finite, int(np.isinf(values).sum()))


def licence_counts(samples: pa.Table) -> dict[str, int]:
    """Count samples by the licence of their photographs, most frequent first; empty where the recipe asks for none."""
    if LICENCE_COLUMN.name not in samples.schema.names:
        return {}
    counts = Counter(samples[LICENCE_COLUMN.name].to_pylist())
    return {"none named" if name is None else name: count for name, count in counts.most_common()}


def quality_row(distribution: Distribution) -> dict[str, str]:
    """Put a distribution into words for a table."""
    unit = distribution.measure.unit
    error = distribution.standard_error if distribution.measure.on_share else None
    quantiles = {"5 %": 0.05, "median": 0.5, "95 %": 0.95}
    return {
        "measure": distribution.measure.title,
        "mean": figure(distribution.mean, unit) + ("" if error is None else f" ± {figure(error, unit)}"),
        **{title: figure(distribution.quantile(share), unit) for title, share in quantiles.items()},
        "worst": _worst(distribution),
        "samples": str(distribution.values.size) + (f", {distribution.exact} exact" if distribution.exact else ""),
    }


def figure(value: float, unit: str) -> str:
    """Print a figure: decibels with two places, ratios with four; an infinite one is ``exact``."""
    if np.isinf(value):
        return "exact"
    return f"{value:.2f} {unit}" if unit else f"{value:.4f}"


@dataclass(frozen=True)
class Missing:
    """Shards that failed on several workers and are set aside.

    Attributes:
        reasons: why, by shard.
        of: number of planned shards.
    """

    reasons: Mapping[int, str]
    of: int


@dataclass(frozen=True)
class GateCheck:
    """One of the recipe's gates, held against what was found.

    Attributes:
        gate: its name in the recipe.
        wanted: what it asks for, in words.
        found: what there is, in words.
        passed: whether it holds.
        failure: what is wrong and by how much; empty if it holds.
    """

    gate: str
    wanted: str
    found: str
    passed: bool
    failure: str


def check_gates(quality: Quality, gates: Gates, missing: Missing | None = None) -> list[GateCheck]:
    """Hold the quality, and what is missing, against each gate that asks for something."""
    least, most = partial(_least, quality), partial(_most, quality)
    checks = (
        least("min_cycle_psnr_matched", "cycle_psnr_matched_db", gates.min_cycle_psnr_matched, " dB"),
        least("min_cycle_psnr", "cycle_psnr_db", gates.min_cycle_psnr, " dB"),
        least("min_cycle_ssim", "cycle_ssim", gates.min_cycle_ssim, ""),
        most("max_cycle_lpips", "cycle_lpips", gates.max_cycle_lpips),
        _fewest_rejects(quality, gates.max_reject_fraction),
        _fewest_missing(missing, gates.max_set_aside_fraction),
    )
    return [check for check in checks if check is not None]


def require_gates(quality: Quality, gates: Gates, missing: Missing | None = None) -> None:
    """Hold the quality, and what is missing, against the recipe's gates.

    Raises:
        GateError: at least one failed; the message says which, and by how much.
    """
    failures = [check.failure for check in check_gates(quality, gates, missing) if not check.passed]
    if failures:
        raise GateError(
            f"The dataset is not published: {'; '.join(failures)}. Look at the rejects and the worst samples, "
            "then mend the corpus or change the recipe's gates; what was made is kept."
        )


def _least(quality: Quality, gate: str, column: str, least: float | None, unit: str) -> GateCheck | None:
    if least is None:
        return None
    mean = quality.mean(column)
    found = "nothing was measured" if mean is None else "all exact" if mean == math.inf else f"mean {mean:.3f}{unit}"
    passed = mean is not None and mean >= least
    short = "" if mean is None else f", {least - mean:.3f}{unit} short"
    failure = "" if passed else f"gate {gate} asks for {least:g}{unit}: {found}{short}"
    return GateCheck(gate, f"at least {least:g}{unit}", found, passed, failure)


def _most(quality: Quality, gate: str, column: str, most: float | None) -> GateCheck | None:
    if most is None:
        return None
    mean = quality.mean(column)
    found = "nothing was measured" if mean is None else f"mean {mean:.3f}"
    passed = mean is not None and mean <= most
    over = "" if mean is None else f", {mean - most:.3f} over"
    return GateCheck(
        gate, f"at most {most:g}", found, passed, "" if passed else f"gate {gate} allows {most:g}: {found}{over}"
    )


def _fewest_rejects(quality: Quality, most: float | None) -> GateCheck | None:
    if most is None:
        return None
    share, rejected = quality.reject_fraction, sum(quality.rejected_sources.values())
    found = f"{rejected} of {quality.sources} sources were rejected, {share:.1%}"
    passed = share <= most
    failure = f"gate max_reject_fraction allows {most:.1%}: {found}, {share - most:.1%} over"
    return GateCheck("max_reject_fraction", f"at most {most:.1%}", found, passed, "" if passed else failure)


def _fewest_missing(missing: Missing | None, most: float | None) -> GateCheck | None:
    if most is None or missing is None or not missing.reasons:
        return None
    found = f"{len(missing.reasons)} of {missing.of} shards failed on several workers and are set aside"
    passed = len(missing.reasons) <= most * missing.of
    named = "; ".join(f"shard {shard}: {why}" for shard, why in islice(missing.reasons.items(), _NAMED_SHARDS))
    failure = f"gate max_set_aside_fraction allows {most:.1%}: {found} ({named}); the run's artifacts have their logs"
    return GateCheck("max_set_aside_fraction", f"at most {most:.1%}", found, passed, "" if passed else failure)


def _worst(distribution: Distribution) -> str:
    ends = {"higher": distribution.values[0], "lower": distribution.values[-1]}
    worst = ends.get(distribution.measure.better)
    return "-" if worst is None else figure(worst, distribution.measure.unit)
