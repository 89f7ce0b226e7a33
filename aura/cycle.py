"""How a photograph differs from its synthesized RAW rendered back: measured on every sample, so it has to cost little.

Both are 8-bit images. All that does not depend on place follows from how often each pair of codes occurs: PSNR, the
curve that matches exposure and tone, and PSNR after it. SSIM is that of luma at every fourth window in both directions,
which leaves no pixel unseen. A CPU does in compiled loops (:mod:`aura.cycle_loops`) what is written here in torch,
which is the definition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aura.color import LUMA_COEFFICIENTS
from aura.cycle_loops import SSIM_STRIDE, count_pairs, squared_error, strided_ssim
from aura.errors import InvalidInputError
from aura.metrics import SSIM_WINDOW, fit_tone, similarity, ssim_blur, ssim_window
from aura.perceptual import SMALLEST_SIDE, Lpips

_CODES: Final = 256
_LPIPS_SIDE: Final = 256  # the whole of a sample would take three times as long as AURA's own network
_BANDS: Final = 64


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
    _require_codes(source, rendered)
    joint = _joint_counts(rendered, source)
    tables = np.stack([_matching_table(counts) for counts in joint])
    identity = np.broadcast_to(np.arange(_CODES, dtype=np.float32) / (_CODES - 1), tables.shape)
    ssim, ssim_matched = _ssims(source, rendered, tables)
    distance = distance_matched = None
    if lpips is not None and min(source.shape[-2:]) >= SMALLEST_SIDE:
        seen, reference = _middle(rendered), _middle(source)
        images = torch.stack([_look_up(seen, identity), _look_up(seen, tables)])
        distance, distance_matched = lpips(images, _look_up(reference, identity)[None]).tolist()
    return CycleQuality(
        psnr=_psnr(joint, identity),
        psnr_matched=_psnr(joint, tables),
        ssim=ssim,
        ssim_matched=ssim_matched,
        lpips=distance,
        lpips_matched=distance_matched,
    )


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


def _joint_counts(rendered: Tensor, source: Tensor) -> np.ndarray:
    if source.device.type == "cpu":
        return count_pairs(_array(rendered), _array(source))
    return _count_pairs(rendered, source)


def _count_pairs(rendered: Tensor, source: Tensor) -> np.ndarray:
    """How often each code of the source meets each of the rendering: uint8 ``(3, H, W)`` twice -> ``(3, 256, 256)``."""
    channel = torch.arange(3, dtype=torch.int32, device=source.device)[:, None, None]
    pairs = torch.bincount(((channel * _CODES + rendered) * _CODES + source).flatten(), minlength=3 * _CODES**2)
    return pairs.view(3, _CODES, _CODES).to(torch.int32).cpu().numpy()


def _matching_table(joint: np.ndarray) -> np.ndarray:
    """The curve that takes a channel of the rendering to the source, at each code: ``(256, 256)`` -> ``(256,)``."""
    values = joint.sum(axis=1) * (np.arange(_CODES) / (_CODES - 1))
    return fit_tone(joint.reshape(_BANDS, -1, _CODES).sum(axis=1), values.reshape(_BANDS, -1).sum(axis=1), _CODES)


def _psnr(joint: np.ndarray, tables: np.ndarray) -> float:
    """PSNR in dB of the rendering, after a table per channel, from the pairs of codes."""
    total = squared_error(joint, np.ascontiguousarray(tables))
    return float("inf") if total == 0.0 else float(-10.0 * np.log10(total / joint.sum()))


def _ssims(source: Tensor, rendered: Tensor, tables: np.ndarray) -> tuple[float, float]:
    """SSIM of the rendering's luma, as is and after its tables."""
    weights = np.array(LUMA_COEFFICIENTS["bt709"], np.float32)
    plain, matched = weights / np.float32(_CODES - 1), tables * weights[:, None]
    if source.device.type == "cpu":
        return strided_ssim(_array(source), _array(rendered), plain, matched, ssim_window().numpy())
    return _strided_ssim(source, rendered, torch.from_numpy(plain), torch.from_numpy(matched))


def _array(codes: Tensor) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(codes.numpy())


def _look_up(codes: Tensor, tables: np.ndarray) -> Tensor:
    values = torch.from_numpy(np.ascontiguousarray(tables)).to(codes.device)
    return torch.stack([table[channel.long()] for table, channel in zip(values, codes, strict=True)])


def _strided_ssim(source: Tensor, rendered: Tensor, plain: Tensor, matched: Tensor) -> tuple[float, float]:
    """What :func:`aura.cycle_loops.strided_ssim` does, on any device."""
    codes = torch.arange(_CODES, dtype=torch.float32)
    one, *others = (
        _luma(image, weighted.to(image.device))
        for image, weighted in (
            (source, plain[:, None] * codes),
            (rendered, plain[:, None] * codes),
            (rendered, matched),
        )
    )
    planes = [one, one * one] + [part for other in others for part in (other, other * other, other * one)]
    mean, square, *parts = ssim_blur(torch.stack(planes), SSIM_STRIDE)
    triples = zip(*(iter(parts),) * 3, strict=True)
    maps = [similarity(own, mean, squares + square, product) for own, squares, product in triples]
    ssim, ssim_matched = torch.stack(maps).mean(dim=(1, 2), dtype=torch.float64).tolist()
    return ssim, ssim_matched


def _luma(codes: Tensor, weighted: Tensor) -> Tensor:
    """Luma of codes ``(3, H, W)`` from what each adds to it, ``(3, 256)``: float32 ``(H, W)``."""
    red, green, blue = (
        table.index_select(0, channel.flatten().int()) for table, channel in zip(weighted, codes, strict=True)
    )
    luma: Tensor = red.add_(green).add_(blue)
    return luma.view(codes.shape[1:])
