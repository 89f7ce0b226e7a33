"""One HTML page about a version of a dataset: it needs no other file, no script and no network to be read."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from typing import Any, Final

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import yaml

from flows.pictures import DIFFERENCE_GAIN, Triptych, caption, choose_rows, data_uri, sample_name, triptychs
from flows.quality import Distribution, Quality, figure, quality_row
from flows.retakes import Retakes, retakes
from storage.dataset import Dataset
from storage.sealed import seal_page

_BINS: Final = 32
_PICTURED_SAMPLES: Final = 6
_PICTURE_SIDE_PX: Final = 384
_RETAKEN_EVERY: Final = 2  # of the pictured samples
_EXAMPLES_PER_REASON: Final = 3
_ISO_STOPS: Final = tuple(100 * 2**stop for stop in range(-2, 12))
_SOFTWARE: Final = ("aura-raw", "torch", "numpy", "zarr", "numcodecs", "pyarrow", "prefect", "dask", "pillow")


@dataclass(frozen=True)
class Histogram:
    """A distribution as bars, in the units of an SVG that is 100 wide and 40 high.

    Attributes:
        title: what is shown.
        meaning: one sentence.
        bars: ``(x, y, width, height)`` of each bar.
        median_x: where the median lies.
        low: printed least value.
        high: printed greatest value.
        summary: the figures in words, for those who do not see the bars.
    """

    title: str
    meaning: str
    bars: tuple[tuple[float, float, float, float], ...]
    median_x: float
    low: str
    high: str
    summary: str


@dataclass(frozen=True)
class Coverage:
    """How many samples a camera has, by ISO.

    Attributes:
        camera: name of the profile.
        samples: samples in all.
        iso_min: lowest ISO.
        iso_max: highest ISO.
        by_stop: samples within each stop of :func:`build_report`'s columns.
    """

    camera: str
    samples: int
    iso_min: int
    iso_max: int
    by_stop: tuple[int, ...]


def report_path(version: int) -> str:
    """Where the report of a version lies inside its dataset."""
    return f"reports/{version:06d}.html"


def write_report(dataset: Dataset, version: int, quality: Quality, index: pa.Table, reading: str) -> str:
    """Build the report of a published version and store it beside the dataset.

    Args:
        dataset: the dataset.
        version: number of the version.
        quality: of exactly this version's samples.
        index: the dataset's index of its corpus.
        reading: code that opens the version.

    Returns:
        Where the page lies.
    """
    chosen = choose_rows(quality.samples.to_pylist(), _PICTURED_SAMPLES)
    retaken = retakes(dataset, chosen[::_RETAKEN_EVERY])
    page = build_report(dataset, version, quality, index, triptychs(dataset, chosen), reading, retaken)
    location = dataset.location.join(*report_path(version).split("/"))
    location.write(seal_page(page))
    return location.url


def build_report(
    dataset: Dataset,
    version: int,
    quality: Quality,
    index: pa.Table,
    pictured: Sequence[Triptych],
    reading: str,
    retaken: Sequence[Retakes] = (),
) -> str:
    """Build the page; every value is escaped, whatever a file of the corpus is called.

    Args:
        dataset: the dataset.
        version: number of the version.
        quality: of exactly this version's samples.
        index: the dataset's index of its corpus.
        pictured: samples to show, from the worst to the best.
        reading: code that opens the version.
        retaken: samples as other cameras and ISOs would have taken them.
    """
    samples = quality.samples
    pixels = int(pc.sum(pc.multiply(samples["valid_height_px"], samples["valid_width_px"])).as_py() or 0)
    stops = _used_stops(samples)
    return _template().render(
        name=dataset.location.name,
        url=dataset.location.url,
        version=version,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        figures=_figures(dataset, quality, pixels),
        histograms=[_histogram(distribution) for distribution in quality.distributions],
        quality=[quality_row(distribution) for distribution in quality.distributions],
        stops=stops,
        coverage=[_coverage(samples, camera, stops) for camera in sorted(set(samples["camera"].to_pylist()))],
        rejects=_reject_examples(quality, index),
        rejected=sum(quality.rejected_sources.values()),
        sources=quality.sources,
        pictures=[_picture(sample) for sample in pictured],
        retakes=[_retakes(sample) for sample in retaken],
        gain=DIFFERENCE_GAIN,
        recipe=yaml.safe_dump(dataset.recipe.model_dump(mode="json"), sort_keys=False).strip(),
        digests={"Recipe": dataset.recipe.digest, "Model": dataset.model_digest},
        software={name: installed_version(name) for name in _SOFTWARE} | {"Python": platform.python_version()},
        reading=reading,
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flows"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html")


def _figures(dataset: Dataset, quality: Quality, pixels: int) -> dict[str, str]:
    matched = quality.mean("cycle_psnr_matched_db")
    return {
        "samples": f"{quality.samples.num_rows:,}",
        "megapixels of RAW": f"{pixels / 1e6:,.1f}",
        "photographs used": f"{len(set(quality.samples['source_sha256'].to_pylist())):,}",
        "cameras": str(len(set(quality.samples["camera"].to_pylist()))),
        "canvas": f"{dataset.recipe.canvas.height} × {dataset.recipe.canvas.width}",
        "cycle PSNR, tone matched": "not measured" if matched is None else figure(matched, "dB"),
    }


def _histogram(distribution: Distribution) -> Histogram:
    values, unit = distribution.values, distribution.measure.unit
    low, high = float(values[0]), float(values[-1])
    span = (high - low) or 1.0
    counts, _ = np.histogram(values, bins=_BINS, range=(low, low + span))
    heights = 38.0 * counts / counts.max()
    width = 100.0 / _BINS
    bars = tuple(
        (round(place * width + 0.2, 2), round(40.0 - float(height), 2), round(width - 0.4, 2), round(float(height), 2))
        for place, height in enumerate(heights)
        if height > 0
    )
    row = quality_row(distribution)
    return Histogram(
        title=distribution.measure.title,
        meaning=distribution.measure.meaning,
        bars=bars,
        median_x=round(100.0 * (distribution.quantile(0.5) - low) / span, 2),
        low=figure(low, unit),
        high=figure(high, unit),
        summary=f"Histogram of {row['samples']} samples: mean {row['mean']}, median {row['median']}, "
        f"nine of ten between {row['5 %']} and {row['95 %']}.",
    )


def _used_stops(samples: pa.Table) -> list[int]:
    """ISO stops, each the lowest ISO of a column, from the first to the last that has samples."""
    iso = samples["iso"].to_numpy()
    used = [stop for stop in _ISO_STOPS if ((iso >= stop) & (iso < 2 * stop)).any()]
    return [stop for stop in _ISO_STOPS if used and used[0] <= stop <= used[-1]]


def _coverage(samples: pa.Table, camera: str, stops: Sequence[int]) -> Coverage:
    iso = samples.filter(pc.equal(samples["camera"], camera))["iso"].to_numpy()
    by_stop = tuple(int(((iso >= stop) & (iso < 2 * stop)).sum()) for stop in stops)
    return Coverage(camera, iso.size, int(iso.min()), int(iso.max()), by_stop)


def _reject_examples(quality: Quality, index: pa.Table) -> list[dict[str, Any]]:
    refused = index.filter(pc.is_valid(index["reject_reason"]))
    examples: dict[str, dict[str, str]] = {reason: {} for reason in quality.rejected_sources}
    at_listing = zip(
        *(refused[name].to_pylist() for name in ("reject_reason", "uri", "reject_detail")),
        strict=True,
    )
    at_making = zip(
        *(quality.rejected_samples[name].to_pylist() for name in ("reason", "source_uri", "detail")),
        strict=True,
    )
    for reason, uri, detail in (*at_listing, *at_making):
        if len(examples[reason]) < _EXAMPLES_PER_REASON:
            examples[reason].setdefault(uri, detail)
    return [
        {"reason": reason, "count": count, "examples": examples[reason]}
        for reason, count in quality.rejected_sources.items()
    ]


def _picture(sample: Triptych) -> dict[str, Any]:
    said = caption(sample)
    titles = ("Source", "Synthesized RAW, rendered", f"Difference ×{DIFFERENCE_GAIN}, tone matched")
    return {
        "caption": said,
        "images": [
            {"title": title, "uri": data_uri(picture, _PICTURE_SIDE_PX), "alt": f"{title}: {said}"}
            for title, picture in zip(titles, (sample.source, sample.rendered, sample.difference), strict=True)
        ],
    }


def _retakes(sample: Retakes) -> dict[str, str]:
    cameras, isos = ", ".join(sample.cameras), ", ".join(map(str, sample.isos))
    said = f"{sample_name(sample.row)} as {cameras} (from top to bottom) at ISO {isos} (from left to right)"
    return {"caption": said, "uri": data_uri(sample.sheet, max(sample.sheet.shape)), "alt": said}
