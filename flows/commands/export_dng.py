"""Samples of a dataset as DNG files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from aura.errors import DatasetConflictError, EmptyCorpusError, InvalidInputError
from aura.negative import baseline_exposure, write_negative
from aura.sensor.noise import NoiseParameters
from aura.sensor.profile import SensorProfile
from aura.sensor.simulate import Capture
from flows.reports.pictures import Row, display_pixels, render_row, source_pixels
from storage.datasets.dataset import Dataset, open_dataset
from storage.datasets.versions import list_versions
from storage.reading.chunks import open_samples
from storage.reading.sample_columns import UNPUBLISHED, choose_version, load_samples

_PROVENANCE: Final = {
    "sampleId": "sample_id",
    "sourceUri": "source_uri",
    "sourceMember": "source_member",
    "sourceSha256": "source_sha256",
    "sourceLicence": "source_licence",
}
_XMP_LIES_WITHIN: Final = 1 << 18


@dataclass(frozen=True)
class ExportedNegatives:
    """What an export wrote.

    Attributes:
        paths: the files, in the order of their samples.
        found: how many of them were there already, finished by an earlier run.
        bytes: their size in all.
    """

    paths: tuple[Path, ...]
    found: int
    bytes: int


def export_dng(
    url: str, out: Path, version: str | None, limit: int | None, on_progress: Callable[[str, int, int], None]
) -> ExportedNegatives:
    """Write ``<index>.dng`` for each sample of a dataset; a file that is there already is left as it is.

    Args:
        url: where the dataset lies.
        out: folder to write to; made if it is not there.
        version: a published version, by number or tag; None for the newest, or for what is committed without any.
        limit: how many samples, evenly spread over the dataset; None for all.
        on_progress: called before each sample and at the end.

    Raises:
        MissingFileError: there is no dataset, or no such version.
        EmptyCorpusError: it holds no sample.
        InvalidInputError: a limit under 1.
        DatasetConflictError: the folder holds a file of that name which is not of this sample; nothing is written.
    """
    if limit is not None and limit < 1:
        raise InvalidInputError(f"The limit is {limit}; expected at least 1 sample.")
    dataset, rows = _chosen(url, version, limit)
    _require_own(out, dataset, rows)
    out.mkdir(parents=True, exist_ok=True)
    raw = open_samples(dataset, "raw")
    paths, found = [], 0
    for done, row in enumerate(rows):
        on_progress("export", done, len(rows))
        path = out / f"{row['index']:08d}.dng"
        paths.append(path)
        if path.is_file():
            found += 1
            continue
        height, width = row["valid_height_px"] // 2, row["valid_width_px"] // 2
        planes = np.asarray(raw.sample(row["index"])[:, :height, :width])
        _write_whole(path, planes, dataset, row)
    on_progress("export", len(rows), len(rows))
    return ExportedNegatives(tuple(paths), found, sum(path.stat().st_size for path in paths))


def capture_of(row: Row, profile: SensorProfile) -> Capture:
    """Rebuild the capture of a sample from its row; its numbers, not the profile's draws, are what counts."""
    noise = None
    if row["noise_model"] != "none":
        noise = NoiseParameters(
            system_gain_dn_per_electron=row["noise_system_gain_dn_per_electron"],
            read_sigma_dn=row["noise_read_sigma_dn"],
            read_tukey_lambda=row["noise_read_tukey_lambda"],
            row_sigma_dn=row["noise_row_sigma_dn"],
            black_offset_dn=tuple(row["noise_black_offset_dn"]),
            quantisation_step_dn=row["noise_quantisation_step_dn"],
        )
    first, second, third = np.reshape(row["camera_to_srgb"], (3, 3)).tolist()
    return Capture(
        profile=profile,
        iso=row["iso"],
        wb_gains=tuple(row["wb_gains"]),
        camera_to_srgb=(tuple(first), tuple(second), tuple(third)),
        exposure=row["exposure"],
        noise=noise,
        seed=row["seed"],
    )


def _chosen(url: str, version: str | None, limit: int | None) -> tuple[Dataset, list[dict[str, Any]]]:
    dataset = open_dataset(url)
    unpublished = version is None and not list_versions(dataset.location)
    rows = load_samples(choose_version(dataset.location, UNPUBLISHED if unpublished else version)).to_pylist()
    if not rows:
        raise EmptyCorpusError(f"{dataset.location.url} has no sample to export yet; run its synthesis first.")
    if limit is not None and limit < len(rows):
        rows = [rows[place] for place in np.linspace(0, len(rows) - 1, limit).round().astype(int)]
    return dataset, rows


def _require_own(out: Path, dataset: Dataset, rows: list[dict[str, Any]]) -> None:
    """Make sure that files which are there already are of these very samples: their XMP says so."""
    for row in rows:
        path = out / f"{row['index']:08d}.dng"
        if not path.is_file():
            continue
        with path.open("rb") as file:
            text = file.read(_XMP_LIES_WITHIN)
        if not all(said.encode() in text for said in (row["sample_id"], dataset.recipe.digest, dataset.model_digest)):
            raise DatasetConflictError(
                f"{path} is not sample {row['index']} of {dataset.location.url}; it comes from another dataset or "
                "program. Choose another folder."
            )


def _write_whole(path: Path, planes: np.ndarray, dataset: Dataset, row: Row) -> None:
    """Write under another name, then rename: a killed export leaves no half a file under a sample's name."""
    capture = capture_of(row, SensorProfile.model_validate(dataset.profiles[row["camera"]]))
    photograph = source_pixels(dataset, row)
    exposure = None if photograph is None else baseline_exposure(photograph, display_pixels(render_row(planes, row)))
    provenance = {name: row[column] for name, column in _PROVENANCE.items() if row.get(column) is not None}
    crop = " ".join(str(row[f"crop_{side}_px"]) for side in ("top", "left", "height", "width"))
    partial = path.with_suffix(".partial")
    write_negative(
        partial,
        planes,
        capture,
        photograph=photograph,
        baseline_exposure_ev=exposure,
        provenance=provenance
        | {
            "sourceCropTopLeftHeightWidthPx": crop,
            "dataset": dataset.location.url,
            "sampleIndex": str(row["index"]),
            "recipeDigest": dataset.recipe.digest,
            "method": dataset.recipe.method,
            "modelDigest": dataset.model_digest,
        },
    )
    partial.replace(path)
