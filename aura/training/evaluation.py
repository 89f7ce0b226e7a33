"""Judge inverse ISPs on real RAW files that programs unknown to them have developed.

Every pair of a file and a developer is measured for every method in the same run: the method sees the photograph, its
canonical light goes through the file's own camera (colour matrix, white balance, CFA), and the result is set beside the
RAW. The *ceiling* is what no global inverse can pass: a polynomial of degree 5 from the photograph's RGB to each RAW
plane, fitted to that very image with the truth in hand.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import mean, pstdev
from typing import Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aura.bayer import cfa_sites, pack_rgb
from aura.errors import InvalidInputError
from aura.isp import render
from aura.metrics import OVEREXPOSED, align_gains, ciede2000, psnr, ssim
from aura.perceptual import SMALLEST_SIDE, Lpips
from aura.sensor.simulate import canonical_to_camera
from aura.training.development import DevelopedPair, DeveloperName, LeftOutPair, developed_pair
from aura.training.raw_files import RawFile, RawFrame
from aura.unprocess import linearise

Method = Callable[[np.ndarray], Tensor]
"""Photograph ``(H, W, 3)`` uint8 sRGB -> canonical linear ``(3, H, W)`` float32."""

CEILING: Final = "ceiling"
CLASSICAL_METHODS: Final = ("linearise", "upi")
HARD_BELOW_DB: Final = 30.0
"""A pair is hard where linearise only stays under this aligned PSNR."""

PERCEPTUAL_CROP: Final = 768
METRIC_UNITS: Final = {
    "psnr": "dB",
    "psnr_aligned": "dB",
    "psnr_aligned_exposed": "dB",
    "psnr_aligned_overexposed": "dB",
    "ssim": "1",
    "ssim_aligned": "1",
    "lpips": "1",
    "lpips_aligned": "1",
    "lpips_aligned_binned": "1",
    "ciede2000": "dE00",
    "ciede2000_aligned": "dE00",
    "way_to_ceiling": "1",
}

_POLYNOMIAL_DEGREE: Final = 5
_SITES_PER_BLOCK: Final = 1 << 14
_EXPONENTS: Final = tuple(
    powers for powers in itertools.product(range(_POLYNOMIAL_DEGREE + 1), repeat=3) if sum(powers) <= _POLYNOMIAL_DEGREE
)


@dataclass(frozen=True)
class Score:
    """How near one method's RAW is to the truth on one pair. Higher is better for PSNR and SSIM, lower for the others.

    Packed RAW is compared in [0, 1]. *Aligned* means after one least-squares gain per colour channel, since exposure
    and white balance cannot be seen in a photograph. LPIPS and CIEDE2000 compare the reference rendering of a centre
    crop.

    Attributes:
        psnr: dB over all sites, as is.
        psnr_aligned: dB over all sites.
        psnr_aligned_exposed: dB over sites whose truth is under 0.99 of saturation; None if there are none.
        psnr_aligned_overexposed: dB over the other sites; None if there are none.
        ssim: on packed RAW, as is.
        ssim_aligned: on packed RAW.
        lpips: as is.
        lpips_aligned: after alignment.
        lpips_aligned_binned: after alignment, of 2x2 sites of each plane averaged in both; without the grain of a
            real RAW file, which nobody can give back.
        ciede2000: mean dE00, as is.
        ciede2000_aligned: mean dE00 after alignment.
    """

    psnr: float
    psnr_aligned: float
    psnr_aligned_exposed: float | None
    psnr_aligned_overexposed: float | None
    ssim: float
    ssim_aligned: float
    lpips: float
    lpips_aligned: float
    lpips_aligned_binned: float
    ciede2000: float
    ciede2000_aligned: float


@dataclass(frozen=True)
class EvaluationRow:
    """One method on one photograph of one file.

    Attributes:
        file: name of the RAW file.
        developer: who made the photograph.
        method: who took it back to RAW.
        hard: linearise only stays under 30 dB aligned on this pair.
        overexposed_share: of the sites, in [0, 1].
        correlation: of the gradients of photograph and RAW.
        score: the measurements.
    """

    file: str
    developer: DeveloperName
    method: str
    hard: bool
    overexposed_share: float
    correlation: float
    score: Score


@dataclass(frozen=True)
class Evaluation:
    """All measurements of one run, what was left out, and how it was done, in words."""

    rows: tuple[EvaluationRow, ...]
    left_out: tuple[LeftOutPair, ...]
    protocol: str


class Figure(NamedTuple):
    """A mean over pairs, its unit, and the standard deviation over the pairs."""

    value: float
    unit: str
    spread: float


def evaluate(
    methods: Mapping[str, Method],
    files: Sequence[RawFile],
    developers: Sequence[DeveloperName],
    *,
    crop: int | None = None,
    perceptual_crop: int = PERCEPTUAL_CROP,
    cache_folder: Path | None = None,
    on_row: Callable[[EvaluationRow | LeftOutPair], None] = lambda _row: None,
) -> Evaluation:
    """Measure methods side by side; the ceiling is measured with them.

    Args:
        methods: by name; ``ceiling`` is taken.
        files: RAW files.
        developers: who develops each file; a developer that is not installed is an error, not a gap.
        crop: side in pixels of a centre crop that stands for the image (the method sees no more of it); None for all.
        perceptual_crop: side in pixels of the centre crop that LPIPS and CIEDE2000 see.
        cache_folder: where developed photographs are kept.
        on_row: told of every row and of every pair left out, as they come.

    Returns:
        Rows in the order files, developers, methods; pairs that do not register are left out and named.

    Raises:
        InvalidInputError: a method is called ``ceiling``, or a crop is odd or too small for the metrics.
        DevelopmentError: a developer is not installed or fails.
    """
    if CEILING in methods:
        raise InvalidInputError(f"A method is called {CEILING!r}; that name is taken. Rename it.")
    for side in (perceptual_crop, *([] if crop is None else [crop])):
        if side % 2 or side < 4 * SMALLEST_SIDE:
            raise InvalidInputError(f"Crop is {side} pixels; expected an even number of at least {4 * SMALLEST_SIDE}.")
    lpips = Lpips()
    rows: list[EvaluationRow] = []
    left_out: list[LeftOutPair] = []
    for file, developer in itertools.product(files, developers):
        pair = developed_pair(file.path, file.description, developer, cache_folder)
        if isinstance(pair, LeftOutPair):
            left_out.append(pair)
            on_row(pair)
            continue
        for row in _judge_pair(methods, pair if crop is None else _centre(pair, crop), perceptual_crop, lpips):
            rows.append(row)
            on_row(row)
    return Evaluation(tuple(rows), tuple(left_out), _protocol(developers, crop, perceptual_crop))


def predicted_raw(canonical: Tensor, frame: RawFrame) -> Tensor:
    """Put canonical light through a frame's camera: ``(3, H, W)`` -> packed ``(4, H/2, W/2)`` in [0, 1]."""
    camera = canonical_to_camera(canonical.float(), torch.from_numpy(frame.camera_to_srgb), frame.wb_gains)
    return pack_rgb(camera, frame.cfa_pattern).clamp(0.0, 1.0)


def fit_ceiling(image: np.ndarray, frame: RawFrame) -> Tensor:
    """Predict each RAW plane by the polynomial of degree 5 in the photograph's RGB that fits it best.

    Args:
        image: ``(H, W, 3)`` uint8.
        frame: the truth, of the same height and width.

    Returns:
        Packed RAW ``(4, H/2, W/2)`` float32, clipped to [0, 1].
    """
    truth = frame.packed().clamp(0.0, 1.0).numpy()
    fitted = np.empty_like(truth)
    for plane, (row, column) in enumerate(cfa_sites(frame.cfa_pattern)):
        fitted[plane] = _fit_polynomial(image[row::2, column::2], truth[plane])
    return torch.from_numpy(fitted.clip(0.0, 1.0))


def score(predicted: Tensor, truth: Tensor, frame: RawFrame, perceptual_crop: int, lpips: Lpips) -> Score:
    """Compare packed RAW ``(4, h, w)`` in [0, 1] with the truth, both of ``frame``'s camera."""
    aligned = align_gains(predicted[None], truth[None])
    both, truths = torch.cat([predicted[None], aligned]), truth.expand(2, -1, -1, -1)
    structure = [float(ssim(raw[None], truth[None])) for raw in both]  # one at a time: 24 megapixels are large
    shown = _render_centre(torch.cat([both, truth[None]]), frame, perceptual_crop)
    binned = F.avg_pool2d(torch.cat([aligned, truth[None]]), 2)
    shown_binned = _render_centre(binned, frame, perceptual_crop // 2)
    distance = lpips(shown[:2], shown[2:]).tolist()
    colour = ciede2000(shown[:2], shown[2:].expand(2, -1, -1, -1)).tolist()
    plain, after_alignment = psnr(both, truths).tolist()
    overexposed = truth >= OVEREXPOSED
    return Score(
        psnr=plain,
        psnr_aligned=after_alignment,
        psnr_aligned_exposed=_psnr_where(aligned[0], truth, ~overexposed),
        psnr_aligned_overexposed=_psnr_where(aligned[0], truth, overexposed),
        ssim=structure[0],
        ssim_aligned=structure[1],
        lpips=distance[0],
        lpips_aligned=distance[1],
        lpips_aligned_binned=float(lpips(shown_binned[:1], shown_binned[1:])),
        ciede2000=colour[0],
        ciede2000_aligned=colour[1],
    )


def figures(evaluation: Evaluation) -> dict[str, Figure]:
    """Average over pairs: ``<group>/<method>/<metric>``.

    A group is a developer, ``hard`` (pairs where linearise only is under 30 dB aligned) or ``all``. The metric
    ``way_to_ceiling`` is the share of the way from the better classical inverse to the ceiling, of the group's mean
    aligned PSNR; it has no spread.
    """
    means: dict[str, Figure] = {}
    for group, rows in rows_by_group(evaluation).items():
        for method, scores in _by_method(rows).items():
            for metric, unit in METRIC_UNITS.items():
                values = [value for one in scores if (value := asdict(one).get(metric)) is not None]
                if values:
                    means[f"{group}/{method}/{metric}"] = Figure(mean(values), unit, pstdev(values))
        means |= _ways_to_ceiling(means, group, list(_by_method(rows)))
    return means


def method_names(evaluation: Evaluation) -> tuple[str, ...]:
    """Methods in the order they were given, the ceiling last."""
    return tuple(dict.fromkeys(row.method for row in evaluation.rows))


def group_sizes(evaluation: Evaluation) -> dict[str, int]:
    """Number of pairs in each group: developers in order, then ``hard`` and ``all``; empty groups are left out."""
    return {
        group: len({(row.file, row.developer) for row in rows}) for group, rows in rows_by_group(evaluation).items()
    }


def _judge_pair(
    methods: Mapping[str, Method], pair: DevelopedPair, perceptual_crop: int, lpips: Lpips
) -> Iterator[EvaluationRow]:
    truth = pair.frame.packed().clamp(0.0, 1.0)
    with torch.inference_mode():
        plainest = predicted_raw(linearise(_as_tensor(pair.image)), pair.frame)
        hard = float(psnr(align_gains(plainest[None], truth[None]), truth[None])) < HARD_BELOW_DB
        predictions: list[tuple[str, Callable[[], Tensor]]] = [
            *((name, partial(_through_camera, invert, pair)) for name, invert in methods.items()),
            (CEILING, partial(fit_ceiling, pair.image, pair.frame)),
        ]
        for name, predict in predictions:
            yield EvaluationRow(
                file=pair.frame.name,
                developer=pair.developer,
                method=name,
                hard=hard,
                overexposed_share=float((truth >= OVEREXPOSED).float().mean()),
                correlation=pair.registration.correlation,
                score=score(predict(), truth, pair.frame, perceptual_crop, lpips),
            )


def _through_camera(invert: Method, pair: DevelopedPair) -> Tensor:
    return predicted_raw(invert(pair.image), pair.frame)


def _centre(pair: DevelopedPair, side: int) -> DevelopedPair:
    """Cut the centre out, from an even offset; a smaller image stays whole."""
    rows, columns = (centre_slice(length, side) for length in pair.frame.mosaic.shape)
    frame = replace(pair.frame, mosaic=np.ascontiguousarray(pair.frame.mosaic[rows, columns]))
    return replace(pair, image=np.ascontiguousarray(pair.image[rows, columns]), frame=frame)


def centre_slice(length: int, side: int) -> slice:
    """Cut ``side`` out of the middle of ``length``, from an even offset; all of it if it is shorter."""
    start = max(0, (length - side) // 4 * 2)
    return slice(start, min(length, start + side))


def _render_centre(raw: Tensor, frame: RawFrame, side: int) -> Tensor:
    """Render the centre of packed ``(B, 4, h, w)`` to sRGB ``(B, 3, side, side)`` (or all of a smaller image)."""
    rows, columns = (centre_slice(length, side // 2) for length in raw.shape[-2:])
    matrix = torch.from_numpy(frame.camera_to_srgb).float()
    return render(raw[..., rows, columns], frame.cfa_pattern, torch.tensor(frame.wb_gains), matrix)


def _psnr_where(predicted: Tensor, truth: Tensor, where: Tensor) -> float | None:
    if not bool(where.any()):
        return None
    return float(-10.0 * torch.log10(((predicted - truth)[where] ** 2).mean()))


def _fit_polynomial(colours: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """Least squares in Chebyshev products of total degree 5 or less, 56 of them: well conditioned on 8-bit colours."""
    pixels, target = colours.reshape(-1, 3), plane.ravel()
    blocks = [slice(start, start + _SITES_PER_BLOCK) for start in range(0, len(target), _SITES_PER_BLOCK)]
    terms = len(_EXPONENTS)
    gram, moment = np.zeros((terms, terms)), np.zeros(terms)
    for block in blocks:
        basis = _polynomial_basis(pixels[block])
        gram += basis @ basis.T
        moment += basis @ target[block]
    weights = np.linalg.lstsq(gram, moment, rcond=1e-13)[0]
    return np.concatenate([weights @ _polynomial_basis(pixels[block]) for block in blocks]).reshape(plane.shape)


def _polynomial_basis(pixels: np.ndarray) -> np.ndarray:
    """Chebyshev products of uint8 RGB: ``(N, 3)`` -> ``(56, N)`` float64."""
    table = np.polynomial.chebyshev.chebvander(np.arange(256) / 127.5 - 1.0, _POLYNOMIAL_DEGREE).T
    red, green, blue = (table[:, pixels[:, channel]] for channel in range(3))
    return np.stack([red[r] * green[g] * blue[b] for r, g, b in _EXPONENTS])


def rows_by_group(evaluation: Evaluation) -> dict[str, list[EvaluationRow]]:
    """Sort the measurements into the groups of :func:`figures`; a row is in its developer's, and may be in ``hard``."""
    groups: dict[str, list[EvaluationRow]] = {}
    for row in evaluation.rows:
        groups.setdefault(row.developer, []).append(row)
    groups["hard"] = [row for row in evaluation.rows if row.hard]
    groups["all"] = list(evaluation.rows)
    return {group: rows for group, rows in groups.items() if rows}


def _by_method(rows: Sequence[EvaluationRow]) -> dict[str, list[Score]]:
    scores: dict[str, list[Score]] = {}
    for row in rows:
        scores.setdefault(row.method, []).append(row.score)
    return scores


def _ways_to_ceiling(means: Mapping[str, Figure], group: str, methods: Sequence[str]) -> dict[str, Figure]:
    aligned = {method: means[f"{group}/{method}/psnr_aligned"].value for method in methods}
    classical = [aligned[method] for method in CLASSICAL_METHODS if method in aligned]
    if not classical or aligned[CEILING] <= max(classical):
        return {}
    start, whole = max(classical), aligned[CEILING] - max(classical)
    return {
        f"{group}/{method}/way_to_ceiling": Figure((value - start) / whole, METRIC_UNITS["way_to_ceiling"], 0.0)
        for method, value in aligned.items()
    }


def _protocol(developers: Sequence[DeveloperName], crop: int | None, perceptual_crop: int) -> str:
    area = "the whole image" if crop is None else f"the centre {crop}x{crop} pixels, which are all the method sees"
    return (
        f"Real RAW files developed by {', '.join(developers)}, then JPEG quality 92, registered by an integer offset "
        f"(gradient correlation of at least 0.8). Packed RAW in [0, 1] over {area}. Aligned: after one least-squares "
        "gain per colour channel, fitted where the truth is under 0.99 of saturation; over-exposed sites are those at "
        f"or over 0.99. LPIPS and CIEDE2000: reference rendering of the centre {perceptual_crop}x{perceptual_crop} "
        "pixels; LPIPS binned: of the same pixels, 2x2 sites of each plane averaged. Ceiling: degree-5 polynomial from "
        "RGB to each RAW plane, fitted per image with the truth. Values are means over pairs, spreads standard "
        "deviations over pairs."
    )


def _as_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255.0


def canonical_by(inverse: Callable[[Tensor], Tensor]) -> Method:
    """Make a method of a function on display tensors ``(3, H, W)`` in [0, 1], such as the classical inverses."""
    return lambda image: inverse(_as_tensor(image))
