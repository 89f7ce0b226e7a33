"""What a camera is: levels, colour, CFA and noise, as data that can be checked and stored.

Digital numbers (DN) are the camera's own, black included unless a name says otherwise. Four values are always in the
order R, Gr, Gb, B.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Final, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from aura.bayer import CfaPattern
from aura.color import SRGB_TO_XYZ, camera_to_srgb_matrix
from aura.errors import InvalidInputError

FourLevels = tuple[float, float, float, float]
Row3 = tuple[float, float, float]
Matrix3 = tuple[Row3, Row3, Row3]
TukeyShape = Annotated[float, Field(gt=-0.5)]
"""Shape of a Tukey-lambda distribution of finite variance."""

_FIELDS: Final = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
_CHECKED_ISOS: Final = 200
_FALL_OF_GAIN: Final = 0.9  # measurements scatter where two ISOs share an analogue gain
D65_XYZ: Final = SRGB_TO_XYZ.sum(axis=1)
"""CIE XYZ of the canonical white, luminance 1."""


class SensorLevels(BaseModel):
    """Black and saturation of the stored numbers, for a range of ISO.

    Attributes:
        iso_min: first ISO these hold for, or None for any.
        iso_max: last ISO these hold for, or None for any.
        black_level: DN with no light, R, Gr, Gb, B.
        white_level: DN at saturation, R, Gr, Gb, B, whole since they are stored; seldom 2^bits - 1.
    """

    model_config = _FIELDS

    iso_min: PositiveInt | None = None
    iso_max: PositiveInt | None = None
    black_level: FourLevels
    white_level: FourLevels

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if any(black < 0 or white <= black for black, white in zip(self.black_level, self.white_level, strict=True)):
            raise ValueError(f"black {self.black_level} must be at least 0 and below white {self.white_level}")
        if any(white % 1 for white in self.white_level):
            raise ValueError(
                f"white level {self.white_level} is no number that a file stores, and no pixel could reach it; "
                "round it down to whole DN"
            )
        if self.iso_min and self.iso_max and self.iso_min > self.iso_max:
            raise ValueError(f"iso_min {self.iso_min} is above iso_max {self.iso_max}")
        return self

    def holds_for(self, iso: int) -> bool:
        """Whether the ISO lies in this range, ends included."""
        return (self.iso_min or 0) <= iso and (self.iso_max is None or iso <= self.iso_max)

    @property
    def range_dn(self) -> float:
        """DN from black to saturation, the mean of the four planes."""
        return float(np.mean(np.subtract(self.white_level, self.black_level)))


class LogLinearScale(BaseModel):
    """A scale in DN whose logarithm is a line in log K: ln(scale) ~ N(slope · ln K + bias, sigma²).

    Attributes:
        slope: of ln(DN) over ln(DN per electron).
        bias: ln(DN) at K = 1 DN per electron.
        sigma: standard deviation of ln(scale) around the line, from setting to setting.
    """

    model_config = _FIELDS

    slope: float
    bias: float
    sigma: float = Field(ge=0)


def _require_ascending(iso_min: int, iso_max: int) -> None:
    if iso_min > iso_max:
        raise ValueError(f"iso_min {iso_min} is above iso_max {iso_max}")


class LogLinearNoise(BaseModel):
    """The ELD noise model (Wei et al., *A Physics-based Noise Formation Model*, CVPR 2020).

    The system gain K is proportional to ISO: ``K = gain_dn_per_electron_at_iso_min · iso / iso_min``. Scales are in
    DN of the calibrated camera.

    Attributes:
        kind: tells this model from the others in a file.
        iso_min: lowest calibrated ISO.
        iso_max: highest calibrated ISO.
        gain_dn_per_electron_at_iso_min: K at ``iso_min``.
        reference_range_dn: DN from black to saturation that the numbers refer to, if they are to be scaled to another
            camera's range; None if they were measured in the camera's own DN and hold as they are.
        row_sigma_dn: banding, one Gaussian number for each row of the mosaic.
        read_sigma_dn: read noise, modelled as Gaussian.
        read_tukey_scale_dn: read noise, modelled as Tukey-lambda; this is the scale parameter, not the deviation.
        read_tukey_lambda: measured shapes; one is drawn.
        black_offset_dn: measured colour bias, R, Gr, Gb, B; one row is drawn.
        source: where the numbers come from, and how they were read.
    """

    model_config = _FIELDS

    kind: Literal["log_linear"] = "log_linear"
    iso_min: PositiveInt
    iso_max: PositiveInt
    gain_dn_per_electron_at_iso_min: PositiveFloat
    reference_range_dn: PositiveFloat | None = None
    row_sigma_dn: LogLinearScale
    read_sigma_dn: LogLinearScale
    read_tukey_scale_dn: LogLinearScale
    read_tukey_lambda: tuple[TukeyShape, ...] = Field(min_length=1)
    black_offset_dn: tuple[FourLevels, ...] = Field(min_length=1)
    source: str

    @model_validator(mode="after")
    def _check_isos(self) -> Self:
        _require_ascending(self.iso_min, self.iso_max)
        return self


class PolynomialNoise(BaseModel):
    """Shot and read noise as polynomials of ISO, as phone makers publish them and DNG's NoiseProfile implies.

    Attributes:
        kind: tells this model from the others in a file.
        iso_min: lowest ISO the polynomials are used for.
        iso_max: highest ISO the polynomials are used for.
        reference_range_dn: DN from black to saturation that the numbers refer to; they are scaled to the camera's own.
            None if they are in the camera's own DN.
        gain_dn_per_electron: coefficients of K over ISO, constant first.
        read_variance_dn2: coefficients of the read variance over ISO, constant first.
        source: where the numbers come from, and how they were read.
    """

    model_config = _FIELDS

    kind: Literal["polynomial"] = "polynomial"
    iso_min: PositiveInt
    iso_max: PositiveInt
    reference_range_dn: PositiveFloat | None = None
    gain_dn_per_electron: tuple[float, ...] = Field(min_length=1)
    read_variance_dn2: tuple[float, ...] = Field(min_length=1)
    source: str

    @model_validator(mode="after")
    def _check_signs(self) -> Self:
        _require_ascending(self.iso_min, self.iso_max)
        isos = np.geomspace(self.iso_min, self.iso_max, _CHECKED_ISOS)
        polynomial = np.polynomial.polynomial.polyval
        gain, variance = polynomial(isos, self.gain_dn_per_electron), polynomial(isos, self.read_variance_dn2)
        wrong = isos[(gain <= 0.0) | (variance < 0.0)]
        if wrong.size:
            raise ValueError(
                f"at ISO {wrong[0]:.0f} the gain is not above 0, or the read variance is below 0; mend the "
                "coefficients, or change iso_min and iso_max"
            )
        return self


class NoisePoint(BaseModel):
    """Noise at one ISO, in DN of the camera.

    Attributes:
        iso: sensitivity.
        gain_dn_per_electron: K.
        read_sigma_dn: standard deviation of the read noise.
        read_tukey_lambda: its shape as a Tukey-lambda distribution, or None for Gaussian.
        row_sigma_dn: standard deviation of what a row of the mosaic shares.
        black_offset_dn: what the true black differs from the stated one, R, Gr, Gb, B.
    """

    model_config = _FIELDS

    iso: PositiveInt
    gain_dn_per_electron: PositiveFloat
    read_sigma_dn: float = Field(ge=0)
    read_tukey_lambda: TukeyShape | None = None
    row_sigma_dn: float = Field(default=0.0, ge=0)
    black_offset_dn: FourLevels = (0.0, 0.0, 0.0, 0.0)


class TabulatedNoise(BaseModel):
    """Noise measured ISO by ISO; between two of them scales are lines over ISO, both as logarithms.

    Attributes:
        kind: tells this model from the others in a file.
        reference_range_dn: None; the numbers are in the camera's own DN.
        points: ascending in ISO.
        source: where the numbers come from, and how they were measured.
    """

    model_config = _FIELDS

    kind: Literal["tabulated"] = "tabulated"
    reference_range_dn: None = None
    points: tuple[NoisePoint, ...] = Field(min_length=1)
    source: str

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        isos = [point.iso for point in self.points]
        if isos != sorted(set(isos)):
            raise ValueError(f"points have the ISOs {isos}; they must ascend, each once")
        for low, high in pairwise(self.points):
            if high.gain_dn_per_electron < _FALL_OF_GAIN * low.gain_dn_per_electron:
                raise ValueError(
                    f"gain_dn_per_electron falls from {low.gain_dn_per_electron:g} at ISO {low.iso} to "
                    f"{high.gain_dn_per_electron:g} at ISO {high.iso}; it must grow with the ISO"
                )
        return self

    @property
    def iso_min(self) -> int:
        """Lowest measured ISO."""
        return self.points[0].iso

    @property
    def iso_max(self) -> int:
        """Highest measured ISO."""
        return self.points[-1].iso


NoiseCalibration = Annotated[LogLinearNoise | PolynomialNoise | TabulatedNoise, Field(discriminator="kind")]


class SensorProfile(BaseModel):
    """One camera.

    Attributes:
        name: slug, such as ``canon-eos-5d-mark-iv``.
        make: the maker.
        model: the model as its files name it.
        cfa_pattern: colours at (0,0), (0,1), (1,0), (1,1) of the visible frame.
        bit_depth: bits of the stored numbers.
        levels: black and white; the first entry that holds for an ISO counts, so exceptions come first.
        xyz_to_camera: CIE XYZ (D65) to camera RGB, Adobe convention.
        noise: calibration, or None.
        iso_range: lowest and highest ISO.
        source: where the numbers come from.
    """

    model_config = _FIELDS

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    make: str
    model: str
    cfa_pattern: CfaPattern
    bit_depth: int = Field(ge=8, le=16)
    levels: tuple[SensorLevels, ...] = Field(min_length=1)
    xyz_to_camera: Matrix3
    noise: NoiseCalibration | None = None
    iso_range: tuple[PositiveInt, PositiveInt]
    source: str

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        if self.iso_range[0] > self.iso_range[1]:
            raise ValueError(f"iso_range {self.iso_range} must go from low to high")
        camera_to_srgb_matrix(np.array(self.xyz_to_camera))  # refuses what is no camera
        highest = max(max(levels.white_level) for levels in self.levels)
        if highest > 2**self.bit_depth - 1:
            raise ValueError(f"white level {highest} does not fit into {self.bit_depth} bits")
        low, high = self.iso_range
        beside = {edge for each in self.levels for edge in ((each.iso_min or 1) - 1, (each.iso_max or high) + 1)}
        for iso in (low, high, *sorted(beside)):  # a gap begins or ends beside an entry
            if low <= iso <= high:
                self.levels_at(iso)
        return self

    def levels_at(self, iso: int) -> SensorLevels:
        """Return the levels that hold at an ISO.

        Raises:
            InvalidInputError: no entry holds for it.
        """
        for levels in self.levels:
            if levels.holds_for(iso):
                return levels
        raise InvalidInputError(f"{self.name} has no levels for ISO {iso}; add an entry without ISO limits to them.")

    @property
    def title(self) -> str:
        """Maker and model, as people say them."""
        return self.model if self.model.lower().startswith(self.make.lower()) else f"{self.make} {self.model}"

    @property
    def camera_to_srgb(self) -> np.ndarray:
        """``(3, 3)`` float64: camera RGB white-balanced for D65 -> canonical linear; rows sum to 1."""
        return camera_to_srgb_matrix(np.array(self.xyz_to_camera))

    @property
    def daylight_gains(self) -> tuple[float, float, float]:
        """White-balance gains for D65, green 1."""
        red, green, blue = (np.array(self.xyz_to_camera) @ D65_XYZ).tolist()
        return green / red, 1.0, green / blue
