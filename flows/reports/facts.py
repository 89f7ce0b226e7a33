"""What the report says in tables and lists: figures, cameras, noise, rejects, samples, provenance."""

import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from aura.sensor.profile import SensorProfile
from flows.reports.charts import Histogram, histogram, noise_share, plane_means
from flows.reports.masks import mask_overlay
from flows.reports.pictures import DIFFERENCE_GAIN, Row, Triptych, data_uri, quality_words, sample_name
from flows.reports.quality import MEASURES, Quality, figure, licence_counts
from flows.reports.retakes import Retakes
from storage.datasets.dataset import Dataset
from storage.datasets.tags import list_tags
from storage.datasets.versions import read_version
from storage.labelling.boxes import decode_mask
from storage.objects.location import locate

_EXAMPLES_PER_REASON: Final = 5
_PICTURE_SIDE_PX: Final = 384
_SIGNALS: Final = {"noise, 18 % grey": 0.18, "noise, dark": 0.0}  # of saturation
_SOFTWARE: Final = ("aura-raw", "torch", "numpy", "zarr", "numcodecs", "pyarrow", "prefect", "dask", "pillow")


@dataclass(frozen=True)
class Picture:
    """One picture of a sample.

    Attributes:
        view: short name, by which the page shows or hides it.
        title: what it is.
        uri: the picture itself.
        alt: for those who do not see it.
        height: in pixels of the file.
        width: in pixels of the file.
    """

    view: str
    title: str
    uri: str
    alt: str
    height: int
    width: int


@dataclass(frozen=True)
class DrawnBox:
    """An annotated object, in per cent of the picture's width and height."""

    category: str
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class PicturedSample:
    """A sample with its pictures.

    Attributes:
        name: which sample, of which photograph.
        headline: camera, ISO and quality in a line.
        pictures: source, RAW and difference.
        facts: all that is known about it, by title.
        boxes: annotated objects to draw on it.
        masks: their masks as a picture to lay over it; None if none has one.
    """

    name: str
    headline: str
    pictures: tuple[Picture, ...]
    facts: dict[str, str]
    boxes: tuple[DrawnBox, ...] = ()
    masks: str | None = None


@dataclass(frozen=True)
class Camera:
    """What a version holds of one camera.

    Attributes:
        name: of its profile.
        title: maker and model.
        samples: how many.
        iso: lowest and highest, in words.
        by_stop: samples within each ISO stop.
        facts: CFA, levels, and figures of the noise with units, by title.
        sources: where its numbers come from.
    """

    name: str
    title: str
    samples: int
    iso: str
    by_stop: tuple[int, ...]
    facts: dict[str, str]
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Reject:
    """Files that could not be used for one reason.

    Attributes:
        reason: stable short code.
        count: how many.
        share: of all rejected, in per cent.
        examples: what was found, by URI.
    """

    reason: str
    count: int
    share: float
    examples: dict[str, str]


def key_figures(dataset: Dataset, quality: Quality) -> dict[str, str]:
    """What a reader looks for first, by title."""
    samples = quality.samples
    pixels = int(pc.sum(pc.multiply(samples["valid_height_px"], samples["valid_width_px"])).as_py() or 0)
    matched = quality.mean("cycle_psnr_matched_db")
    canvas = dataset.recipe.canvas
    return {
        "samples": f"{samples.num_rows:,}",
        "megapixels of RAW": f"{pixels / 1e6:,.1f}",
        "photographs used": f"{len(samples['source_sha256'].unique()):,}",
        "files rejected": f"{sum(quality.rejected_sources.values()):,} of {quality.sources:,}",
        "cameras": str(len(samples["camera"].unique())),
        "canvas, px": f"{canvas.height} × {canvas.width}",
        "cycle PSNR, tone matched": "not measured" if matched is None else figure(matched, "dB"),
    }


def pictured_sample(sample: Triptych, objects: Sequence[Mapping[str, Any]] | None) -> PicturedSample:
    """Encode the pictures of a sample, and say all that is known about it.

    Args:
        sample: its pictures.
        objects: what is annotated in it; None if nobody annotated it.
    """
    row, name = sample.row, sample_name(sample.row)
    titles = {
        "source": "Source",
        "raw": "Synthesized RAW, rendered",
        "difference": f"Difference ×{DIFFERENCE_GAIN}, tone matched",
    }
    images = (sample.source, sample.rendered, sample.difference)
    masks = [decode_mask(each["mask"]) for each in objects or () if each["mask"] is not None]
    return PicturedSample(
        name=name,
        headline=" · ".join([row["camera"], f"ISO {row['iso']}", *quality_words(row)]),
        pictures=tuple(
            Picture(view, title, data_uri(image, _PICTURE_SIDE_PX), f"{title}: {name}", *image.shape[:2])
            for (view, title), image in zip(titles.items(), images, strict=True)
        ),
        facts=sample_facts(row) | ({} if objects is None else {"Annotated": _counted(objects)}),
        boxes=tuple(_drawn(each, row) for each in objects or ()),
        masks=mask_overlay(masks, _PICTURE_SIDE_PX) if masks else None,
    )


def sample_facts(row: Row) -> dict[str, str]:
    """All that a row of the samples table says, in words, by title."""
    member = "" if row["source_member"] is None else f" # {row['source_member']}"
    measured = {each.title: (row[each.column], each.unit) for each in MEASURES}
    return {
        "Photograph": f"{row['source_uri']}{member}",
        "Its SHA-256": row["source_sha256"],
        "Sample": row["sample_id"],
        "Crop": f"{row['crop_height_px']} × {row['crop_width_px']} px at row {row['crop_top_px']}, "
        f"column {row['crop_left_px']}, stored as {row['valid_height_px']} × {row['valid_width_px']} px",
        "Camera": f"{row['camera']}, {row['cfa_pattern']}, ISO {row['iso']}",
        "Black and white level": f"{_numbers(row['black_level_dn'])}; {_numbers(row['white_level_dn'])} DN",
        "Exposure": f"× {row['exposure']:.3f} on the canonical linear image",
        "White-balance gains": _numbers(row["wb_gains"]),
        "Noise": _noise_of(row),
        "Seed": str(row["seed"]),
        **{title: figure(value, unit) for title, (value, unit) in measured.items() if value is not None},
    }


def retaken(sample: Retakes) -> Picture:
    """Encode a photograph as other cameras and ISOs would have taken it."""
    cameras, isos = ", ".join(sample.cameras), ", ".join(map(str, sample.isos))
    said = f"{sample_name(sample.row)} as {cameras} (from top to bottom) at ISO {isos} (from left to right)"
    sheet = sample.sheet
    return Picture("retakes", said, data_uri(sheet, max(sheet.shape)), f"Sixteen frames: {said}", *sheet.shape[:2])


def exposure_histograms(samples: pa.Table) -> list[Histogram]:
    """Distributions of what was drawn or found for each sample: light, levels and white balance."""
    gains = samples["wb_gains"]
    exposure = pc.log2(pc.cast(samples["exposure"], pa.float64())).to_numpy()
    signal = 100 * plane_means(samples["channel_mean"], (1, 2))
    return [
        histogram("Exposure", "Drawn factor on the canonical linear image, in stops.", exposure, "EV"),
        histogram("Mean signal", "Mean of the green planes, as a share of saturation.", signal, "%"),
        histogram("Red gain", "White-balance gain of red; green is 1.", plane_means(gains, (0,)), ""),
        histogram("Blue gain", "White-balance gain of blue; green is 1.", plane_means(gains, (2,)), ""),
    ]


def cameras_of(dataset: Dataset, samples: pa.Table, stops: Sequence[int]) -> list[Camera]:
    """Gather what a version holds of each camera."""
    found = []
    for name in sorted(samples["camera"].unique().to_pylist()):
        profile = SensorProfile.model_validate(dataset.profiles[name])
        own = samples.filter(pc.equal(samples["camera"], name))
        iso = own["iso"].to_numpy()
        levels = profile.levels_at(int(iso.min()))
        found.append(
            Camera(
                name=name,
                title=profile.title,
                samples=own.num_rows,
                iso=_span(f"{iso.min()}", f"{iso.max()}"),
                by_stop=tuple(int(((iso >= stop) & (iso < 2 * stop)).sum()) for stop in stops),
                facts={
                    "CFA": ", ".join(own["cfa_pattern"].unique().to_pylist()),
                    "black level": f"{_numbers(levels.black_level)} DN",
                    "white level": f"{_numbers(levels.white_level)} DN",
                    **_noise_figures(own),
                },
                sources=(profile.source, *(() if profile.noise is None else (profile.noise.source,))),
            )
        )
    return found


def rejects_of(quality: Quality, index: pa.Table) -> list[Reject]:
    """Gather the reasons why files gave no sample, with a few examples of each."""
    refused = index.filter(pc.is_valid(index["reject_reason"]))
    at_listing = _columns(refused, ("reject_reason", "uri", "member", "reject_detail"))
    at_making = (
        (reason, uri, None, detail)
        for reason, uri, detail in _columns(quality.rejected_samples, ("reason", "source_uri", "detail"))
    )
    examples: dict[str, dict[str, str]] = {reason: {} for reason in quality.rejected_sources}
    for reason, uri, member, detail in (*at_listing, *at_making):
        if len(examples.get(reason, ())) < _EXAMPLES_PER_REASON:
            place = locate(uri).url  # of a file its path as people write it
            examples.setdefault(reason, {}).setdefault(place if member is None else f"{place} # {member}", detail)
    total = sum(quality.rejected_sources.values())
    return [
        Reject(reason, count, round(100 * count / total, 1), examples[reason])
        for reason, count in quality.rejected_sources.items()
    ]


def provenance(dataset: Dataset, number: int, samples: pa.Table) -> dict[str, str]:
    """Say what a version, and its samples, are made of, by title."""
    version = read_version(dataset.location, number)
    tags = sorted(tag for tag, named in list_tags(dataset.location).items() if named == number)
    held = version.samples - len(version.removed)
    facts = {
        "Version": f"{number}{', tagged ' + ', '.join(tags) if tags else ''}",
        "Holds": f"{held:,} samples in {len(version.shards):,} shards"
        + ("" if version.complete else "; not every planned shard is in it"),
        "Corpus": f"{dataset.recipe.corpus}, listed {version.listing} times"
        if version.listing > 1
        else dataset.recipe.corpus,
    }
    if number > 1:
        before = read_version(dataset.location, number - 1)
        more = held - (before.samples - len(before.removed))
        shards = len(version.shards) - len(before.shards)
        facts[f"Since version {number - 1}"] = f"{more:+,} samples, {shards:+,} shards"
    if licences := licence_counts(samples):
        facts["Licences"] = ", ".join(f"{name}: {count:,} samples" for name, count in licences.items())
    return facts | {
        "Recipe, SHA-256": version.recipe_digest,
        "Method and weights, SHA-256": f"{dataset.recipe.method}, {version.model_digest}",
        "Digests of every object": f"versions/{number:06d}.json",
    }


def software() -> dict[str, str]:
    """Versions of what made the page, by name."""
    return {name: installed_version(name) for name in _SOFTWARE} | {"Python": platform.python_version()}


def _noise_figures(samples: pa.Table) -> dict[str, str]:
    gain = samples["noise_system_gain_dn_per_electron"].to_numpy()
    if not gain.any():
        return {}
    read = samples["noise_read_sigma_dn"].to_numpy()
    row = samples["noise_row_sigma_dn"].to_numpy()
    figures = {
        "noise model": ", ".join(samples["noise_model"].unique().to_pylist()),
        "gain K": f"{_span_of(gain)} DN/e⁻",
        "read noise": f"{_span_of(read)} DN",
        "row noise": f"{_span_of(row)} DN",
    }
    shares = {title: 100 * noise_share(samples, signal) for title, signal in _SIGNALS.items()}
    return figures | {title: f"{_span_of(share)} %" for title, share in shares.items()}


def _noise_of(row: Row) -> str:
    if row["noise_model"] == "none":
        return "none"
    shape = row["noise_read_tukey_lambda"]
    return (
        f"{row['noise_model']}: K {row['noise_system_gain_dn_per_electron']:.4g} DN per electron, "
        f"read {row['noise_read_sigma_dn']:.3g} DN ({'Gaussian' if shape is None else f'Tukey-lambda {shape:.3f}'}), "
        f"row {row['noise_row_sigma_dn']:.3g} DN"
    )


def _counted(objects: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(str(each["category"]) for each in objects)
    return ", ".join(f"{name} × {count}" if count > 1 else name for name, count in counts.most_common()) or "nothing"


def _drawn(each: Mapping[str, Any], row: Row) -> DrawnBox:
    across, down = 100 / row["valid_width_px"], 100 / row["valid_height_px"]
    return DrawnBox(
        str(each["category"]),
        round(each["left_px"] * across, 2),
        round(each["top_px"] * down, 2),
        round(each["width_px"] * across, 2),
        round(each["height_px"] * down, 2),
    )


def _columns(table: pa.Table, names: Sequence[str]) -> Iterable[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def _span_of(values: Any) -> str:
    return _span(f"{values.min():.3g}", f"{values.max():.3g}")


def _span(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"


def _numbers(values: Sequence[float]) -> str:
    """Print numbers, once if they are all the same."""
    printed = [f"{value:.5g}" for value in values]
    return printed[0] if len(set(printed)) == 1 else ", ".join(printed)
