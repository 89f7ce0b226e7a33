"""One HTML page about a version of a dataset: it needs no other file, no script and no network to be read."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import jinja2
import pyarrow as pa
import yaml

from flows.reports.charts import histogram, noise_scatter, used_stops
from flows.reports.facts import (
    cameras_of,
    exposure_histograms,
    key_figures,
    pictured_sample,
    provenance,
    rejects_of,
    retaken,
    software,
)
from flows.reports.pictures import DIFFERENCE_GAIN, Triptych, candidates, choose_ends, triptychs
from flows.reports.quality import Quality, check_gates, measure_quality, quality_row
from flows.reports.reading_code import reading_examples
from flows.reports.retakes import Retakes, retakes
from storage.datasets.dataset import Dataset
from storage.datasets.history import current_index
from storage.datasets.labels import read_labels
from storage.datasets.sealed import seal_page
from storage.datasets.versions import read_version
from storage.labelling.annotating import annotated_samples, annotations_of, count_categories
from storage.recipe import Gates

_PICTURED_OF_EACH: Final = 3
_RETAKEN: Final = ("worst", "best")
_LARGEST_CROP: Final = 128

PicturedGroups = Mapping[str, Sequence[Triptych]]
"""Samples to show, under the name of their group: worst, typical, best."""


def report_path(version: int) -> str:
    """Where the report of a version lies inside its dataset."""
    return f"reports/{version:06d}.html"


def write_report(dataset: Dataset, version: int, quality: Quality, index: pa.Table, gates: Gates) -> str:
    """Build the report of a published version and store it beside the dataset.

    Args:
        dataset: the dataset.
        version: number of the version.
        quality: of exactly this version's samples.
        index: the dataset's index of its corpus.
        gates: what this version was held against.

    Returns:
        Where the page lies.
    """
    chosen = choose_ends(candidates(quality.samples), _PICTURED_OF_EACH)
    pictured = {name: triptychs(dataset, rows) for name, rows in chosen.items()}
    again = retakes(dataset, [rows[0] for name, rows in chosen.items() if rows and name in _RETAKEN])
    page = build_report(dataset, version, quality, index, gates, pictured, again)
    location = dataset.location.join(*report_path(version).split("/"))
    location.write(seal_page(page))
    return location.url


def fetch_report(dataset: Dataset, version: int) -> bytes:
    """Return the page of a published version, made now if nobody has: a version may be one of new labels alone.

    Raises:
        MissingFileError: there is no such version.
        StorageError: the storage refused.
    """
    location = dataset.location.join(*report_path(version).split("/"))
    if not location.exists():
        published = read_version(dataset.location, version)
        held = replace(dataset, version=version, listings=published.listing)
        index = current_index(held)
        quality = measure_quality(held, index, [shard.shard for shard in published.shards])
        write_report(held, version, quality, index, dataset.recipe.gates)
    return location.read()


def build_report(
    dataset: Dataset,
    version: int,
    quality: Quality,
    index: pa.Table,
    gates: Gates,
    pictured: PicturedGroups,
    again: Sequence[Retakes] = (),
) -> str:
    """Build the page; every value is escaped, whatever a file of the corpus is called.

    Args:
        dataset: the dataset.
        version: number of the version.
        quality: of exactly this version's samples.
        index: the dataset's index of its corpus.
        gates: what this version was held against.
        pictured: samples to show.
        again: samples as other cameras and ISOs would have taken them.
    """
    samples, canvas = quality.samples, dataset.recipe.canvas
    stops = used_stops(samples)
    labels = read_labels(dataset, read_version(dataset.location, version))
    shown = [sample.row["sample_id"] for group in pictured.values() for sample in group]
    annotations = annotations_of(labels, shown)
    groups = {
        name: [pictured_sample(sample, annotations.get(sample.row["sample_id"])) for sample in group]
        for name, group in pictured.items()
        if group
    }
    return _template().render(
        name=dataset.location.name,
        url=dataset.location.url,
        version=version,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        figures=key_figures(dataset, quality),
        gates=check_gates(quality, gates),
        groups=groups,
        masked=any(sample.masks for group in groups.values() for sample in group),
        annotated=annotated_samples(labels),
        categories=count_categories(labels),
        retakes=[retaken(sample) for sample in again],
        gain=DIFFERENCE_GAIN,
        histograms=[
            histogram(each.measure.title, each.measure.meaning, each.values, each.measure.unit)
            for each in quality.distributions
        ],
        quality=[quality_row(distribution) for distribution in quality.distributions],
        stops=stops,
        cameras=cameras_of(dataset, samples, stops),
        scatter=noise_scatter(samples),
        exposures=exposure_histograms(samples),
        noise=dataset.recipe.noise,
        rejects=rejects_of(quality, index),
        sources=quality.sources,
        reading=reading_examples(
            dataset.location.url, version, min(_LARGEST_CROP, canvas.height // 2, canvas.width // 2)
        ),
        provenance=provenance(dataset, version, quality.samples),
        recipe=yaml.safe_dump(dataset.recipe.model_dump(mode="json"), sort_keys=False).strip(),
        software=software(),
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("flows.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html")
