"""How a photograph differs from its synthesized RAW rendered back: measured on every sample, so it has to cost little.

Both are 8-bit images. All that does not depend on place follows from how often each pair of codes occurs: PSNR, the
curve that matches exposure and tone, and PSNR after it. SSIM is that of luma at every fourth window in both directions,
which see all pixels but for the last three rows and columns at most. A CPU does in compiled loops
(:mod:`aura.cycle_loops`) what is written here in torch, which is the definition; the curve is fitted by one everywhere
(:mod:`aura.tone_loops`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aura.color import LUMA_COEFFICIENTS
from aura.compiled import loops_take
from aura.cycle_loops import SSIM_STRIDE, count_pairs, squared_error, strided_ssim
from aura.errors import InvalidInputError
from aura.metrics import SSIM_WINDOW, similarity, ssim_blur, ssim_window
from aura.perceptual import SMALLEST_SIDE, Lpips
from aura.tone_loops import matching_tables

_CODES: Final = 256
_LPIPS_SIDE: Final = 256  # the whole of a sample would take three times as long as AURA's own network
_IDENTITY: Final = np.broadcast_to(np.arange(_CODES, dtype=np.float32) / (_CODES - 1), (3, _CODES))
_LUMA_WEIGHTS: Final = np.array(LUMA_COEFFICIENTS["bt709"], np.float32)


@dataclass(frozen=True)
class CycleQuality:
    """A photograph against its synthesized RAW rendered back.

    Attributes:
        psnr: dB, as is; infinite where the two are equal.
        psnr_matched: dB, after the rendering's exposure and tone are matched to the photograph by one monotone curve
            per channel: see :func:`aura.metrics.match_tone`.
        ssim: of BT.709 luma, as is.
        ssim_matched: after the same matching.
        lpips: of the middle 256 x 256 pixels, as is; None if it was not asked for or the image is too small for it.
        lpips_matched: after the same matching; None likewise.
    """

    psnr: float
    psnr_matched: float
    ssim: float
    ssim_matched: float
    lpips: float | None
    lpips_matched: float | None


def cycle_quality(source: Tensor, rendered: Tensor, lpips: Lpips | None) -> CycleQuality:
    """Compare a photograph with its RAW rendered back, as is and with exposure and tone matched.

    Args:
        source: ``(3, H, W)`` uint8 sRGB, sides of at least 11, on any device.
        rendered: same shape and device.
        lpips: the metric, or None to leave it out.

    Raises:
        InvalidInputError: shapes differ, are not ``(3, H, W)`` uint8, or a side is under 11.
    """
    return cycle_quality_batch([source], [rendered], [lpips])[0]


def cycle_quality_batch(
    source: Sequence[Tensor], rendered: Sequence[Tensor], lpips: Sequence[Lpips | None]
) -> list[CycleQuality]:
    """Do what :func:`cycle_quality` does to several pairs; a GPU does them in one pass.

    Args:
        source: each ``(3, H, W)``, all of one shape and on one device; see :func:`cycle_quality`.
        rendered: one for each, likewise.
        lpips: for each the metric, or None.

    Raises:
        InvalidInputError: as for :func:`cycle_quality`.
    """
    for one, other in zip(source, rendered, strict=True):
        _require_codes(one, other)
    pairs = list(zip(source, rendered, strict=True))
    by_loops = loops_take(*source)
    if by_loops:
        joints = [count_pairs(_array(other), _array(one)) for one, other in pairs]
    else:
        sources, renderings = torch.stack(list(source)), torch.stack(list(rendered))
        joints = list(_count_pairs(renderings, sources))
    tables = [matching_tables(joint) for joint in joints]
    if by_loops:
        similar = [_ssims_by_loops(*pair, matching) for pair, matching in zip(pairs, tables, strict=True)]
    else:
        similar = _ssims(sources, renderings, torch.from_numpy(np.stack(tables)))
    distances = [
        _distances(one, other, matching, metric)
        for (one, other), matching, metric in zip(pairs, tables, lpips, strict=True)
    ]
    return [
        CycleQuality(_psnr(joint, _IDENTITY), _psnr(joint, matching), *ssims, *distance)
        for joint, matching, ssims, distance in zip(joints, tables, similar, distances, strict=True)
    ]


def _distances(
    source: Tensor, rendered: Tensor, tables: np.ndarray, lpips: Lpips | None
) -> tuple[float | None, float | None]:
    """LPIPS as is and after matching."""
    if lpips is None or min(source.shape[-2:]) < SMALLEST_SIDE:
        return None, None
    seen, reference = _middle(rendered), _middle(source)
    images = torch.stack([_look_up(seen, _IDENTITY), _look_up(seen, tables)])
    distance, matched = lpips(images, _look_up(reference, _IDENTITY)[None]).tolist()
    return distance, matched


def _middle(codes: Tensor) -> Tensor:
    """The middle of an image ``(3, H, W)``, at most 256 pixels a side."""
    top, left = (max(0, side - _LPIPS_SIDE) // 2 for side in codes.shape[-2:])
    return codes[:, top : top + _LPIPS_SIDE, left : left + _LPIPS_SIDE]


def _require_codes(source: Tensor, rendered: Tensor) -> None:
    fits = source.shape == rendered.shape and source.ndim == 3 and source.shape[0] == 3
    if not fits or source.dtype != torch.uint8 or rendered.dtype != torch.uint8:
        raise InvalidInputError(
            f"Images are {source.dtype} {tuple(source.shape)} and {rendered.dtype} {tuple(rendered.shape)}; expected "
            "uint8 of the same (3, H, W)."
        )
    if min(source.shape[-2:]) < SSIM_WINDOW:
        raise InvalidInputError(
            f"SSIM got {source.shape[-2]}x{source.shape[-1]} pixels; expected at least {SSIM_WINDOW} a side."
        )


def _count_pairs(rendered: Tensor, source: Tensor) -> np.ndarray:
    """What :func:`aura.cycle_loops.count_pairs` does, on any device: ``(B, 3, H, W)`` -> ``(B, 3, 256, 256)``."""
    pairs = (rendered.long() * _CODES + source).view(-1, source[0, 0].numel())
    # not bincount, which would make a GPU wait
    counts = torch.zeros(len(pairs), _CODES**2, dtype=torch.int32, device=source.device)
    counts.scatter_add_(1, pairs, counts.new_ones(()).expand_as(pairs))
    return counts.view(*source.shape[:2], _CODES, _CODES).cpu().numpy()


def _psnr(joint: np.ndarray, tables: np.ndarray) -> float:
    """PSNR in dB of the rendering, after a table per channel, from the pairs of codes."""
    total = squared_error(joint, np.ascontiguousarray(tables))
    return float("inf") if total == 0.0 else float(-10.0 * np.log10(total / joint.sum()))


def _ssims_by_loops(source: Tensor, rendered: Tensor, tables: np.ndarray) -> tuple[float, float]:
    """SSIM of the rendering's luma, as is and after its tables."""
    plain, matched = _LUMA_WEIGHTS / np.float32(_CODES - 1), tables * _LUMA_WEIGHTS[:, None]
    return strided_ssim(_array(source), _array(rendered), plain, matched, ssim_window().numpy())


def _array(codes: Tensor) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(codes.numpy())


def _look_up(codes: Tensor, tables: np.ndarray) -> Tensor:
    values = torch.from_numpy(np.ascontiguousarray(tables)).to(codes.device)
    return torch.stack([table[channel.long()] for table, channel in zip(values, codes, strict=True)])


def _ssims(source: Tensor, rendered: Tensor, tables: Tensor) -> list[tuple[float, float]]:
    """What :func:`_ssims_by_loops` does, on any device: ``(B, 3, H, W)`` uint8 twice and ``(B, 3, 256)`` float32."""
    identity = torch.from_numpy(_IDENTITY.copy()).expand_as(tables)
    weights = torch.from_numpy(_LUMA_WEIGHTS)[:, None]
    one, *others = (
        _luma(image, (weights * values).to(image.device))
        for image, values in ((source, identity), (rendered, identity), (rendered, tables))
    )
    planes = [one, one * one] + [part for other in others for part in (other, other * other, other * one)]
    mean, square, *parts = ssim_blur(torch.stack(planes), SSIM_STRIDE)
    triples = zip(*(iter(parts),) * 3, strict=True)
    maps = [similarity(own, mean, squares + square, product) for own, squares, product in triples]
    plain, matched = torch.stack(maps).mean(dim=(2, 3), dtype=torch.float64).tolist()
    return list(zip(plain, matched, strict=True))


def _luma(codes: Tensor, weighted: Tensor) -> Tensor:
    """Luma of codes ``(B, 3, H, W)`` from what each adds to it, ``(B, 3, 256)``: float32 ``(B, H, W)``."""
    red, green, blue = weighted.gather(2, codes.flatten(2).long()).unbind(1)
    luma: Tensor = red + green + blue
    return luma.view(len(codes), *codes.shape[2:])
