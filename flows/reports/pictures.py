"""Pictures of samples for a person to judge: the source, the synthesized RAW rendered, and their difference."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image
from torch import Tensor

from aura.errors import RejectedImageError
from aura.isp import render
from aura.metrics import match_tone
from aura.sensor.simulate import normalise_raw
from storage.corpora.corpus import read_source
from storage.corpora.photograph import decode
from storage.datasets.dataset import Dataset
from storage.datasets.plan import place, read_shard_plan
from storage.objects.location import locate
from storage.reading.chunks import open_samples

DIFFERENCE_GAIN: Final = 4
_JPEG_QUALITY: Final = 80
_CANDIDATES_EACH: Final = 1000
_NEAR_AT_LEAST: Final = 12
_NEAR_SHARE: Final = 20  # a twentieth of the samples

Pixels = npt.NDArray[np.uint8]
Row = dict[str, Any]


@dataclass(frozen=True)
class Triptych:
    """One sample as three pictures of the same size, uint8 ``(H, W, 3)``.

    Attributes:
        row: its row of the samples table.
        source: the photograph's pixels.
        rendered: the synthesized RAW through the reference renderer.
        difference: |source - rendered with exposure and tone matched|, amplified :data:`DIFFERENCE_GAIN` times.
    """

    row: Row
    source: Pixels
    rendered: Pixels
    difference: Pixels


def choose_rows(rows: Sequence[Row], count: int, column: str = "cycle_psnr_matched_db") -> list[Row]:
    """Choose rows spread evenly from the worst to the best, both ends included, of different sources where possible."""
    ranked = sorted(rows, key=lambda row: (row[column] is not None, row[column] or 0.0, row["index"]))
    chosen: list[int] = []
    sources: set[str] = set()
    targets = np.linspace(0, len(ranked) - 1, min(count, len(ranked)))
    for target in (*targets[:1], *targets[:0:-1]):  # the ends first
        free = [rank for rank in range(len(ranked)) if rank not in chosen]
        unseen = [rank for rank in free if ranked[rank]["source_sha256"] not in sources]
        nearest = min(unseen if len(chosen) > 1 and unseen else free, key=lambda rank: abs(rank - target))
        chosen.append(nearest)
        sources.add(ranked[nearest]["source_sha256"])
    return [ranked[rank] for rank in sorted(chosen)]


def candidates(samples: pa.Table, column: str = "cycle_psnr_matched_db") -> list[Row]:
    """Take the rows out of which pictures are chosen: all of a small table, of a large one the ends and the middle.

    As many from each, so that the median stays the median. Samples that match exactly (see :func:`caption`) are taken
    only where there are no others: they have no feature to be judged by, and are not the best.
    """
    telling = samples.filter(pc.fill_null(pc.invert(pc.is_inf(samples[column])), fill_value=True))
    samples = telling if telling.num_rows else samples
    if samples.num_rows > 3 * _CANDIDATES_EACH:
        samples = samples.take(_ends_and_middle(samples, column))
    rows: list[Row] = samples.to_pylist()
    return rows


def _ends_and_middle(samples: pa.Table, column: str) -> pa.Array:
    count = samples.num_rows
    ranked = pc.sort_indices(samples, [(column, "ascending"), ("index", "ascending")], null_placement="at_start")
    middle = (count - _CANDIDATES_EACH) // 2
    parts = [ranked.slice(start, _CANDIDATES_EACH) for start in (0, middle, count - _CANDIDATES_EACH)]
    return pa.concat_arrays(parts)


def choose_ends(rows: Sequence[Row], count: int, column: str = "cycle_psnr_matched_db") -> dict[str, list[Row]]:
    """Choose the worst samples, typical ones (next to the median) and the best, each once.

    The first of a group is the very worst, median or best; the others are of different sources where some are near.

    Returns:
        At most ``count`` rows under each of ``worst``, ``typical`` and ``best``, the most telling first.
    """
    ranked = sorted(rows, key=lambda row: (row[column] is not None, row[column] or 0.0, row["index"]))
    ranks = range(len(ranked))
    orders = {
        "worst": list(ranks),
        "typical": sorted(ranks, key=lambda rank: abs(2 * rank + 1 - len(ranked))),
        "best": list(reversed(ranks)),
    }
    near = max(_NEAR_AT_LEAST, len(ranked) // _NEAR_SHARE)
    chosen: dict[str, list[Row]] = {name: [] for name in orders}
    taken: set[int] = set()
    for _ in range(count):
        for name in ("worst", "best", "typical"):
            sources = {row["source_sha256"] for row in chosen[name]}
            free = [rank for rank in orders[name] if rank not in taken][:near]
            fresh = [rank for rank in free if ranked[rank]["source_sha256"] not in sources]
            for rank in (fresh or free)[:1]:
                taken.add(rank)
                chosen[name].append(ranked[rank])
    return chosen


def triptychs(dataset: Dataset, rows: Iterable[Row]) -> list[Triptych]:
    """Read samples and picture them; one whose source is neither stored nor there any more is left out."""
    raw = open_samples(dataset, "raw")
    pictured = []
    for row in rows:
        source = source_pixels(dataset, row)
        if source is None:
            continue
        height, width = row["valid_height_px"], row["valid_width_px"]
        mosaic = np.asarray(raw.sample(row["index"])[:, : height // 2, : width // 2])
        pictured.append(_triptych(row, source, mosaic))
    return pictured


def source_pixels(dataset: Dataset, row: Row) -> Pixels | None:
    """Return the pixels that a sample was made from, uint8 ``(H, W, 3)``; None if neither stored nor there any more."""
    if not dataset.recipe.keep_srgb:
        return _source_of(dataset, row)
    pixels = open_samples(dataset, "srgb").sample(row["index"])[:, : row["valid_height_px"], : row["valid_width_px"]]
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def render_row(raw_dn: npt.NDArray[np.uint16], row: Row) -> Tensor:
    """Render a stored sample by the reference renderer.

    Args:
        raw_dn: ``(4, h, w)`` DN.
        row: its row of the samples table.

    Returns:
        sRGB ``(3, 2h, 2w)`` float32 in [0, 1].
    """
    normalised = normalise_raw(torch.from_numpy(raw_dn.astype(np.int32)), row["black_level_dn"], row["white_level_dn"])
    matrix = torch.tensor(row["camera_to_srgb"], dtype=torch.float32).reshape(3, 3)
    return render(normalised, row["cfa_pattern"], torch.tensor(row["wb_gains"], dtype=torch.float32), matrix)


def caption(sample: Triptych) -> str:
    """Say in a line which sample a picture shows."""
    row = sample.row
    return ", ".join([sample_name(row), row["camera"], f"ISO {row['iso']}", *quality_words(row)])


def quality_words(row: Row) -> tuple[str, ...]:
    """Say how well a sample renders back to its source; nothing if that was not measured.

    A featureless one, such as a patch of one colour, is infinitely like its source once its tone is matched.
    """
    matched = row["cycle_psnr_matched_db"]
    if matched is None:
        return ()
    return ("exact when tone matched" if np.isinf(matched) else f"{matched:.1f} dB tone matched",)


def sample_name(row: Row) -> str:
    """Say which sample a row is of, and of which photograph."""
    name = locate(row["source_uri"]).name if row["source_member"] is None else row["source_member"]
    return f"sample {row['index']}, {name}"


def data_uri(picture: Pixels, max_side: int) -> str:
    """Encode a picture as a small JPEG in a ``data:`` URI, so that a page needs no other file."""
    encoded = io.BytesIO()
    shrunk(picture, max_side).save(encoded, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode("ascii")


def shrunk(picture: Pixels, side: int) -> Image.Image:
    """Make a picture fit into a square of ``side`` pixels; a smaller one stays as it is."""
    image = Image.fromarray(picture)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _triptych(row: Row, source: Pixels, mosaic: npt.NDArray[np.uint16]) -> Triptych:
    rendered = render_row(mosaic, row)
    reference = torch.from_numpy(np.ascontiguousarray(source)).permute(2, 0, 1) / 255
    matched = match_tone(rendered[None], reference[None])[0]
    return Triptych(
        row, source, display_pixels(rendered), display_pixels((matched - reference).abs() * DIFFERENCE_GAIN)
    )


def display_pixels(image: Tensor) -> Pixels:
    """Round sRGB ``(3, H, W)`` in [0, 1] to uint8 ``(H, W, 3)``."""
    scaled = (image.clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(scaled.permute(1, 2, 0).numpy())


def _source_of(dataset: Dataset, row: Row) -> Pixels | None:
    shard = row["index"] // dataset.recipe.shard_size
    planned = read_shard_plan(dataset.location, shard).to_pylist()[row["index"] - dataset.shard_bounds(shard)[0]]
    try:
        return place(decode(read_source(planned), dataset.recipe.limits).image, planned)
    except (RejectedImageError, FileNotFoundError):
        return None
