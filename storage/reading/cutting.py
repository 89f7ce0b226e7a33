"""What a trainer asks of samples when they are read: the size of crops, turns, noise, and what comes along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from aura.augment import ORIENTATIONS
from aura.errors import InvalidInputError
from storage.datasets.dataset import Dataset

Augment = Literal["none", "keep_cfa", "rename_cfa"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutting:
    """What is made of a sample when it is read.

    Attributes:
        crop: side, or height and width, of the crops in packed pixels (half those of the mosaic), drawn evenly within
            the valid area; any packed offset is even in the mosaic, so the CFA stays. None for the whole canvas. Of
            samples smaller than that, what there is, from the top left, the rest 0.
        augment: flips and quarter turns, drawn evenly among ``orientations``: ``keep_cfa`` cuts a row and a column off
            where it must, so that the pattern stays the sample's (:func:`aura.augment.orient_packed_keeping_cfa`; a
            sample without room for that is left as it is); ``rename_cfa`` names the pattern that it becomes.
        noise: add noise, fresh in every epoch, from the parameters stored with the sample. The dataset must hold clean
            RAW (recipe ``noise: on_read``, or ``none`` together with ``iso``).
        iso: draw an ISO from this range, evenly in stops, within what the camera's noise model covers, and add its
            noise instead of that of the stored ISO. Levels stay the sample's: where the camera's range from black to
            white is another at that ISO, the noise is scaled, so that it is as strong beside saturation.
        exposure_ev: draw an exposure from this range of stops, evenly, and scale the clean signal by it. What is
            saturated stays so.
        clean: also give the crop as it was before noise, as ``clean``.
        srgb: also give the source pixels, as ``srgb``.
        annotations: also give the objects in each crop, as ``annotations``; the version must have some.
        min_area: an object stays in a crop if this share of its box in the photograph is left, or fills this share of
            the crop: the rule of :mod:`storage.labelling.boxes`.
        orientations: which flips and turns (:data:`aura.augment.ORIENTATIONS`) are drawn; ``(0, 1)`` mirrors alone.
    """

    crop: int | tuple[int, int] | None = None
    augment: Augment = "none"
    noise: bool = False
    iso: tuple[int, int] | None = None
    exposure_ev: tuple[float, float] | None = None
    clean: bool = False
    srgb: bool = False
    annotations: bool = False
    min_area: float = 0.25
    orientations: tuple[int, ...] = tuple(range(ORIENTATIONS))

    def __post_init__(self) -> None:
        """Refuse what cannot be cut."""
        if self.sides is not None and min(self.sides) < 1:
            raise InvalidInputError(f"Crop is {self.crop}; expected two sides of at least 1 packed pixel.")
        if self.augment not in {"none", "keep_cfa", "rename_cfa"}:
            raise InvalidInputError(f"augment is {self.augment!r}; expected 'none', 'keep_cfa' or 'rename_cfa'.")
        if self.augment != "none" and self.crop is None:
            raise InvalidInputError("Flips and turns need a crop size, so that all items have one shape; give crop.")
        for name, pair in (("iso", self.iso), ("exposure_ev", self.exposure_ev)):
            if pair is not None and not pair[0] <= pair[1]:
                raise InvalidInputError(f"{name} is {pair}; expected an ascending pair.")
        if not 0 < self.min_area <= 1:
            raise InvalidInputError(f"min_area is {self.min_area}; expected a share above 0, at most 1.")
        if not self.orientations or not set(self.orientations) <= set(range(ORIENTATIONS)):
            raise InvalidInputError(f"orientations is {self.orientations}; expected some of 0 to {ORIENTATIONS - 1}.")
        if self.iso is not None and self.iso[0] < 1:
            raise InvalidInputError(f"iso is {self.iso}; expected positive numbers.")

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width of the crops."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop

    def require_fit(self, dataset: Dataset) -> None:
        """Refuse to add noise to RAW that has some, and to give pixels that are not kept.

        Raises:
            InvalidInputError: this dataset cannot be read so.
        """
        held, url = dataset.recipe.noise, dataset.location.url
        if (self.noise or self.iso or self.exposure_ev) and held == "stored":
            raise InvalidInputError(
                f"{url} holds RAW with noise in it; noise, iso and exposure_ev on reading need clean RAW. "
                "Make the dataset with noise: on_read."
            )
        if self.clean and held == "stored":
            raise InvalidInputError(
                f"{url} holds RAW with noise in it, so there is no clean RAW to give. Make the dataset with "
                "noise: on_read, or read without clean."
            )
        if self.noise and self.iso is None and held == "none":
            raise InvalidInputError(
                f"{url} holds no noise parameters (its recipe has noise: none). Give iso=(low, high) to draw them."
            )
        if self.srgb and not dataset.recipe.keep_srgb:
            raise InvalidInputError(f"{url} keeps no source pixels. Make it with keep_srgb, or read without srgb.")
