"""How well a denoiser does: PSNR on crops of a dataset, each with the noise of its camera at a stated ISO."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Subset

from aura.errors import InvalidInputError
from examples.denoise.network import Denoiser, noise_sigma
from examples.denoise.training import onto
from storage.reading import Cutting, RawDataset
from storage.reading.sample_columns import VersionName

_BATCH = 8


@dataclass(frozen=True, slots=True)
class Score:
    """One crop.

    Attributes:
        sample_id: of the sample that it was cut from.
        camera: whose noise it has.
        psnr_db: of the denoised crop against the clean one; the peak is saturation at the clean one's exposure.
        noisy_psnr_db: of the crop before denoising.
    """

    sample_id: str
    camera: str
    psnr_db: float
    noisy_psnr_db: float


def evaluate(
    network: Denoiser,
    url: str,
    iso: int,
    *,
    exposure_ev: float = 0.0,
    crop: int = 128,
    items: Sequence[int] | None = None,
    seed: int = 0,
    version: VersionName = None,
) -> list[Score]:
    """Denoise a crop of each sample; the same arguments give the same crops with the same noise to every network.

    Args:
        network: what to judge, on any device.
        url: a dataset without noise in it.
        iso: of the noise.
        exposure_ev: stops by which the light is weakened (negative) before the noise is added; errors are measured
            after it was made up for, as a photographer would.
        crop: side in packed pixels.
        items: which samples; None for all.
        seed: of crops and noise.
        version: of the dataset.

    Raises:
        InvalidInputError: the dataset cannot be read so, or holds no samples.
    """
    cutting = Cutting(crop=crop, iso=(iso, iso), exposure_ev=(exposure_ev, exposure_ev), clean=True)
    dataset = RawDataset(url, version, cutting=cutting, seed=seed)
    chosen = range(len(dataset)) if items is None else items
    if not chosen:
        raise InvalidInputError(f"{url} holds no samples to judge by.")
    scores = []
    device = next(network.parameters()).device
    for on_host in DataLoader(Subset(dataset, chosen), batch_size=_BATCH):
        batch = onto(on_host, device)
        noisy, clean = batch["raw"], batch["clean"]
        with torch.inference_mode():
            denoised = network(noisy, noise_sigma(noisy, batch))
        for place, name in enumerate(batch["sample_id"]):
            height, width = batch["valid"][place].tolist()
            truth = clean[place, :, :height, :width] * 2.0**-exposure_ev
            after, before = (
                psnr(image[place, :, :height, :width] * 2.0**-exposure_ev, truth) for image in (denoised, noisy)
            )
            scores.append(Score(name, batch["camera"][place], after, before))
    return scores


def psnr(image: torch.Tensor, truth: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of RAW where 1 is saturation; nothing is clipped."""
    return -10 * math.log10(max((image - truth).square().mean().item(), 1e-12))
