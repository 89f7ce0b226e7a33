"""What the dataset says about each sample: one row per sample, one Parquet file per shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

import pyarrow as pa

from aura.errors import InvalidInputError

_PLANES: Final = pa.list_(pa.field("item", pa.float32(), nullable=False), 4)
_GAINS: Final = pa.list_(pa.field("item", pa.float32(), nullable=False), 3)
_MATRIX: Final = pa.list_(pa.field("item", pa.float32(), nullable=False), 9)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """Everything a trainer must know about one sample.

    Lists of four are in packed order R, Gr, Gb, B; DN is the camera's own digital number; pixels are of the mosaic,
    which has twice the size of the packed planes.

    Attributes:
        index: place of the sample along the first axis of the arrays.
        sample_id: stays the same for the same content and crop, in every dataset.
        source_uri: where the photograph lay.
        source_member: its name inside a tar, or None.
        source_sha256: of the encoded photograph.
        crop_top_px: crop in the decoded, upright photograph; even, as are the next three.
        crop_left_px: see above.
        crop_height_px: see above.
        crop_width_px: see above.
        valid_height_px: part of the canvas, from its top left, that holds pixels; even. The rest is 0 DN.
        valid_width_px: see above.
        camera: name of the sensor profile.
        cfa_pattern: colours at (0,0), (0,1), (1,0), (1,1) of the mosaic.
        black_level_dn: DN of no light.
        white_level_dn: DN of saturation.
        iso: sensitivity.
        noise_model: ``none``, ``calibrated`` or ``generic``.
        noise_system_gain_dn_per_electron: K of the shot noise; 0 without noise, as are the next ones.
        noise_read_sigma_dn: standard deviation of the read noise.
        noise_read_tukey_lambda: shape of the read noise; None means Gaussian.
        noise_row_sigma_dn: standard deviation of the row noise.
        noise_black_offset_dn: what the camera's black lies off its nominal level.
        noise_quantisation_step_dn: step of the converter.
        exposure: factor on the canonical linear image before the sensor.
        wb_gains: R, G, B factors that make grey neutral; green is 1.
        camera_to_srgb: row-major 3x3 from white-balanced camera RGB to canonical linear.
        seed: of everything drawn for this sample.
        cycle_psnr_db: rendered back by the reference renderer against the source, as is; None if not measured.
        cycle_psnr_matched_db: the same with exposure and tone matched.
        cycle_ssim: of luma, as is.
        cycle_ssim_matched: see above.
        cycle_lpips: of the middle 256 x 256 pixels.
        cycle_lpips_matched: likewise.
        clipped_fraction: share of the valid RAW values at the white level, in [0, 1].
        channel_mean: mean of the valid RAW as (DN - black) / (white - black).
        source_licence: of the photograph, None where none is named; a column only where the recipe asks for licences.
    """

    index: int
    sample_id: str
    source_uri: str
    source_member: str | None = None
    source_sha256: str
    crop_top_px: int
    crop_left_px: int
    crop_height_px: int
    crop_width_px: int
    valid_height_px: int
    valid_width_px: int
    camera: str
    cfa_pattern: str
    black_level_dn: Sequence[float]
    white_level_dn: Sequence[float]
    iso: int
    noise_model: str
    noise_system_gain_dn_per_electron: float
    noise_read_sigma_dn: float
    noise_read_tukey_lambda: float | None
    noise_row_sigma_dn: float
    noise_black_offset_dn: Sequence[float]
    noise_quantisation_step_dn: float
    exposure: float
    wb_gains: Sequence[float]
    camera_to_srgb: Sequence[float]
    seed: int
    cycle_psnr_db: float | None = None
    cycle_psnr_matched_db: float | None = None
    cycle_ssim: float | None = None
    cycle_ssim_matched: float | None = None
    cycle_lpips: float | None = None
    cycle_lpips_matched: float | None = None
    clipped_fraction: float
    channel_mean: Sequence[float]
    source_licence: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectRow:
    """A planned sample that could not be made.

    Attributes:
        index: place it would have had; the arrays hold 0 there.
        source_uri: the photograph; of one inside a tar or Parquet file with its member after ``#``.
        source_sha256: as planned.
        reason: stable short code, for grouping.
        detail: one sentence for a person.
    """

    index: int
    source_uri: str
    source_sha256: str
    reason: str
    detail: str


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


SAMPLE_SCHEMA: Final = pa.schema(
    [
        _required("index", pa.int64()),
        _required("sample_id", pa.string()),
        _required("source_uri", pa.string()),
        pa.field("source_member", pa.string()),
        _required("source_sha256", pa.string()),
        _required("crop_top_px", pa.int32()),
        _required("crop_left_px", pa.int32()),
        _required("crop_height_px", pa.int32()),
        _required("crop_width_px", pa.int32()),
        _required("valid_height_px", pa.int32()),
        _required("valid_width_px", pa.int32()),
        _required("camera", pa.string()),
        _required("cfa_pattern", pa.string()),
        _required("black_level_dn", _PLANES),
        _required("white_level_dn", _PLANES),
        _required("iso", pa.int32()),
        _required("noise_model", pa.string()),
        _required("noise_system_gain_dn_per_electron", pa.float32()),
        _required("noise_read_sigma_dn", pa.float32()),
        pa.field("noise_read_tukey_lambda", pa.float32()),
        _required("noise_row_sigma_dn", pa.float32()),
        _required("noise_black_offset_dn", _PLANES),
        _required("noise_quantisation_step_dn", pa.float32()),
        _required("exposure", pa.float32()),
        _required("wb_gains", _GAINS),
        _required("camera_to_srgb", _MATRIX),
        _required("seed", pa.int64()),
        pa.field("cycle_psnr_db", pa.float32()),
        pa.field("cycle_psnr_matched_db", pa.float32()),
        pa.field("cycle_ssim", pa.float32()),
        pa.field("cycle_ssim_matched", pa.float32()),
        pa.field("cycle_lpips", pa.float32()),
        pa.field("cycle_lpips_matched", pa.float32()),
        _required("clipped_fraction", pa.float32()),
        _required("channel_mean", _PLANES),
    ]
)
LICENCE_COLUMN: Final = pa.field("source_licence", pa.string())
"""One more column of samples whose recipe asks for licences."""
REJECT_SCHEMA: Final = pa.schema(
    [
        _required("index", pa.int64()),
        _required("source_uri", pa.string()),
        _required("source_sha256", pa.string()),
        _required("reason", pa.string()),
        _required("detail", pa.string()),
    ]
)


def samples_table(rows: Sequence[SampleRow], *, licensed: bool) -> pa.Table:
    """Make the table of a shard, sorted by index, with :data:`SAMPLE_SCHEMA`.

    Args:
        rows: of the samples.
        licensed: whether :data:`LICENCE_COLUMN` is one of the columns.

    Raises:
        InvalidInputError: a value does not fit its column.
    """
    return _table(rows, SAMPLE_SCHEMA.append(LICENCE_COLUMN) if licensed else SAMPLE_SCHEMA)


def rejects_table(rows: Sequence[RejectRow]) -> pa.Table:
    """Make the table of a shard's rejects, sorted by index, with :data:`REJECT_SCHEMA`.

    Raises:
        InvalidInputError: a value does not fit its column.
    """
    return _table(rows, REJECT_SCHEMA)


def _table(rows: Sequence[SampleRow] | Sequence[RejectRow], schema: pa.Schema) -> pa.Table:
    ordered: list[dict[str, Any]] = sorted((asdict(row) for row in rows), key=lambda row: row["index"])
    try:
        table = pa.Table.from_pylist(ordered, schema=schema)
        table.validate(full=True)
    except (pa.ArrowException, TypeError) as error:
        raise InvalidInputError(f"A sample row does not fit its table: {error}.") from error
    empty = [field.name for field in schema if not field.nullable and table[field.name].null_count]
    if empty:
        raise InvalidInputError(f"A sample row does not fit its table: {', '.join(empty)} must not be None.")
    return table


if {field.name for field in fields(SampleRow)} != {*SAMPLE_SCHEMA.names, LICENCE_COLUMN.name}:
    raise TypeError("SampleRow and SAMPLE_SCHEMA disagree")
