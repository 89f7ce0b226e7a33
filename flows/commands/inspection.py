"""What lies in a dataset, finished or not, as a person wants to know it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
from PIL import Image

from aura.errors import EmptyCorpusError, InvalidInputError
from flows.commands.console import say, say_pairs, say_table
from flows.reports.quality import Quality, licence_counts, measure_quality, quality_row
from storage.datasets.dataset import Dataset, open_dataset
from storage.datasets.history import current_index
from storage.datasets.tags import list_tags, resolve_version
from storage.datasets.versions import list_versions, read_version

_PICTURED_SAMPLES = 8
_PICTURE_SIDE_PX = 320
_PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def inspect_dataset(url: str, version: str | None, picture: Path | None) -> None:
    """Print counts, versions, cameras, quality and rejects of a dataset, and picture some samples.

    Args:
        url: where it lies.
        version: number or tag of a published version; None for whatever is committed.
        picture: file to write a contact sheet to.

    Raises:
        MissingFileError: there is no dataset, or no such version.
        EmptyCorpusError: a picture is wanted and no sample is committed.
        InvalidInputError: the picture's name ends like none; nothing is printed.
    """
    if picture is not None and picture.suffix.lower() not in _PICTURE_SUFFIXES:
        raise InvalidInputError(f"{picture} has no picture's ending; expected {', '.join(_PICTURE_SUFFIXES)}.")
    dataset = open_dataset(url)
    number = None if version is None else resolve_version(url, version)
    if number is None:
        shards = dataset.committed_shards()
    else:
        published = read_version(url, number)
        shards = [shard.shard for shard in published.shards]
        dataset = replace(dataset, version=number, listings=published.listing)
    quality = measure_quality(dataset, current_index(dataset), shards) if shards else None
    _say_facts(dataset, number, shards, quality)
    if quality is None:
        say("Nothing is committed yet.")
    else:
        _say_quality(quality)
    if picture is not None:
        _write_picture(dataset, quality, picture)


def _say_facts(dataset: Dataset, version: int | None, shards: list[int], quality: Quality | None) -> None:
    recipe, canvas = dataset.recipe, dataset.recipe.canvas
    numbers, tags = list_versions(dataset.location), list_tags(dataset.location)
    made = quality.samples.num_rows if quality else 0
    reading = f"version {version}" if version is not None else "what is committed"
    say(f"{dataset.location.url} ({reading})")
    say_pairs(
        {
            "samples": f"{made} made of {dataset.planned_samples} planned",
            "shards": f"{len(shards)} committed of {dataset.shard_count}, up to {recipe.shard_size} samples each",
            "versions": ", ".join(_version_name(number, tags) for number in numbers) or "none published yet",
            "canvas": f"{canvas.height} x {canvas.width}, {canvas.mode}",
            "stored": f"uint16 RAW, {recipe.codec}" + (", with its source pixels" if recipe.keep_srgb else ""),
            "corpus": recipe.corpus,
            "method": f"{recipe.method}, digest {dataset.model_digest[:12]}",
            "recipe": f"digest {recipe.digest[:12]}",
        }
    )


def _version_name(number: int, tags: Mapping[str, int]) -> str:
    names = [tag for tag, tagged in tags.items() if tagged == number]
    return f"{number} ({', '.join(names)})" if names else str(number)


def _say_quality(quality: Quality) -> None:
    counts = Counter(quality.samples["camera"].to_pylist())
    rows = []
    for camera, count in sorted(counts.items()):
        iso = quality.samples.filter(pc.equal(quality.samples["camera"], camera))["iso"]
        rows.append((camera, str(count), f"{pc.min(iso).as_py()} to {pc.max(iso).as_py()}"))
    say_table("Cameras", ("camera", "samples", "ISO"), rows)
    if licences := licence_counts(quality.samples):
        say_table("Licences", ("licence", "samples"), [(name, str(count)) for name, count in licences.items()])
    measured = [quality_row(distribution) for distribution in quality.distributions]
    if measured:
        say_table("Quality", tuple(measured[0]), [tuple(row.values()) for row in measured])
    rejected = [(reason, str(count)) for reason, count in quality.rejected_sources.items()]
    if rejected:
        say_table(f"Rejected sources, of {quality.sources}", ("reason", "sources"), rejected)
    else:
        say(f"All {quality.sources} sources were used.")


def _write_picture(dataset: Dataset, quality: Quality | None, picture: Path) -> None:
    # torch takes seconds to import, and figures alone do not need it
    from flows.reports.contact_sheet import COLUMNS, contact_sheet  # noqa: PLC0415
    from flows.reports.pictures import candidates, caption, choose_rows, triptychs  # noqa: PLC0415

    if quality is None or not quality.samples.num_rows:
        raise EmptyCorpusError(f"{dataset.location.url} has no sample to picture yet; run its synthesis first.")
    pictured = triptychs(dataset, choose_rows(candidates(quality.samples), _PICTURED_SAMPLES))
    picture.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(contact_sheet(pictured, _PICTURE_SIDE_PX)).save(picture)
    say(f"{picture}: {', '.join(COLUMNS)}, with tone matched; worst first")
    for line, sample in enumerate(pictured, 1):
        say(f"  {line}. {caption(sample)}")
