"""Charts of the report as plain geometry: what a template needs to draw them as SVG, and to say them in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from flows.reports.quality import figure

_MOST_BINS: Final = 32
_FEWEST_BINS: Final = 8
_TICKS: Final = 5
_TICK_GAP: Final = 12.0  # of 100; closer ones would touch on a phone
_POINTS_PER_CAMERA: Final = 300
_MIDDLE_GREY: Final = 0.18
_NOISE_COLUMNS: Final = (
    "noise_system_gain_dn_per_electron",
    "noise_read_sigma_dn",
    "noise_row_sigma_dn",
    "noise_quantisation_step_dn",
)
_ISO_STOPS: Final = tuple(100 * 2**stop for stop in range(-2, 12))

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis.

    Attributes:
        at: per cent of the axis, from its left or lower end.
        text: what stands there.
    """

    at: float
    text: str


@dataclass(frozen=True)
class Bar:
    """A bar of a histogram in per cent of the chart, ``y`` from above, and what it stands for in words."""

    x: float
    y: float
    width: float
    height: float
    said: str


@dataclass(frozen=True)
class Histogram:
    """A distribution as bars.

    Attributes:
        title: what is shown.
        meaning: one sentence.
        bars: those that hold a sample; none if all values are equal.
        ticks: of the horizontal axis.
        median_at: where the median lies, in per cent.
        summary: the figures in words.
        same: the value that all samples share, or empty.
    """

    title: str
    meaning: str
    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    median_at: float
    summary: str
    same: str = ""


@dataclass(frozen=True)
class Series:
    """The points of one camera, as an SVG path of dots in a square of 100."""

    name: str
    path: str
    samples: int


@dataclass(frozen=True)
class Scatter:
    """Points over two logarithmic axes.

    Attributes:
        series: one for each camera.
        across: ticks of the horizontal axis.
        upward: ticks of the vertical axis.
        summary: the figures in words.
    """

    series: tuple[Series, ...]
    across: tuple[Tick, ...]
    upward: tuple[Tick, ...]
    summary: str


def histogram(title: str, meaning: str, values: npt.ArrayLike, unit: str) -> Histogram:
    """Lay out a histogram.

    Args:
        title: what is shown.
        meaning: one sentence about it.
        values: at least one; not finite ones are left out.
        unit: of the values, or empty.
    """
    data = np.asarray(values, np.float64)
    data = data[np.isfinite(data)]
    low, high = (float(data.min()), float(data.max())) if data.size else (0.0, 0.0)
    if figure(low, unit) == figure(high, unit):
        text = figure(low, unit) if data.size else "not measured"
        return Histogram(title, meaning, (), (), 50.0, f"{data.size} samples, all {text}.", same=text)
    count = int(np.clip(2 * math.isqrt(data.size), _FEWEST_BINS, _MOST_BINS))
    counts, edges = np.histogram(data, bins=count, range=(low, high))
    width, limits = 100.0 / count, [figure(float(edge), unit) for edge in edges]
    bars = tuple(
        Bar(
            x=round(place * width + 0.15 * width, 2),
            y=round(100.0 - 96.0 * held / counts.max(), 2),
            width=round(0.7 * width, 2),
            height=round(96.0 * held / counts.max(), 2),
            said=f"{_samples(int(held))} from {limits[place]} to {limits[place + 1]}",
        )
        for place, held in enumerate(counts)
        if held
    )
    quantiles = [figure(float(value), unit) for value in np.quantile(data, (0.05, 0.5, 0.95))]
    return Histogram(
        title=title,
        meaning=meaning,
        bars=bars,
        ticks=_linear_ticks(low, high, unit),
        median_at=round(100.0 * (float(np.median(data)) - low) / (high - low), 2),
        summary=f"{_samples(data.size)}: median {quantiles[1]}, nine of ten between {quantiles[0]} and {quantiles[2]}.",
    )


def noise_scatter(samples: pa.Table) -> Scatter | None:
    """Lay out the noise at middle grey (18 % of saturation) of samples over their ISO; None if none has noise."""
    iso = samples["iso"].to_numpy().astype(np.float64)
    noise = 100.0 * noise_share(samples, _MIDDLE_GREY)
    noisy = noise > 0
    if not noisy.any():
        return None
    left, right = math.log2(iso[noisy].min()) - 0.25, math.log2(iso[noisy].max()) + 0.25
    low, high = math.log10(noise[noisy].min()) - 0.05, math.log10(noise[noisy].max()) + 0.05
    x, y = 100.0 * (np.log2(iso) - left) / (right - left), np.zeros_like(noise)
    y[noisy] = 100.0 - 100.0 * (np.log10(noise[noisy]) - low) / (high - low)
    cameras = np.asarray(samples["camera"].to_pylist(), object)
    series = []
    for camera in sorted(set(cameras[noisy])):
        chosen = np.flatnonzero(noisy & (cameras == camera))
        drawn = chosen[:: max(1, math.ceil(chosen.size / _POINTS_PER_CAMERA))]
        path = "".join(f"M{x[place]:.1f} {y[place]:.1f}h0" for place in drawn)
        series.append(Series(str(camera), path, int(chosen.size)))
    across = [Tick(100.0 * (math.log2(stop) - left) / (right - left), f"{stop}") for stop in _ISO_STOPS]
    steps = [step * 10.0**power for power in range(-4, 3) for step in (1, 2, 5)]
    upward = [Tick(100.0 * (math.log10(step) - low) / (high - low), f"{step:g} %") for step in steps]
    spread = f"{noise[noisy].min():.2f} % to {noise[noisy].max():.2f} %"
    return Scatter(
        series=tuple(series),
        across=_apart(across),
        upward=_apart(upward),
        summary=f"Noise at middle grey over ISO: from {spread} of saturation, ISO {iso[noisy].min():.0f} to "
        f"{iso[noisy].max():.0f}, {len(series)} cameras.",
    )


def noise_share(samples: pa.Table, signal: float) -> Values:
    """Standard deviation of each sample's noise at a signal, both as shares of saturation."""
    columns = {name: samples[name].to_numpy().astype(np.float64) for name in _NOISE_COLUMNS}
    span_dn = _mean_of_planes(samples["white_level_dn"]) - _mean_of_planes(samples["black_level_dn"])
    variance_dn2 = (
        columns["noise_system_gain_dn_per_electron"] * signal * span_dn
        + columns["noise_read_sigma_dn"] ** 2
        + columns["noise_row_sigma_dn"] ** 2
        + columns["noise_quantisation_step_dn"] ** 2 / 12
    )
    return np.asarray(np.sqrt(variance_dn2) / span_dn)


def used_stops(samples: pa.Table) -> list[int]:
    """ISO stops, each the lowest ISO of a column, from the first to the last that has samples."""
    iso = samples["iso"].to_numpy()
    used = [stop for stop in _ISO_STOPS if ((iso >= stop) & (iso < 2 * stop)).any()]
    return [stop for stop in _ISO_STOPS if used and used[0] <= stop <= used[-1]]


def plane_means(column: pa.ChunkedArray, planes: Sequence[int]) -> Values:
    """Mean over some planes of a column that holds a list for each sample."""
    values = pc.list_flatten(column).to_numpy().reshape(len(column), column.type.list_size)
    return np.asarray(values[:, list(planes)].mean(axis=1), np.float64)


def _mean_of_planes(column: pa.ChunkedArray) -> Values:
    return plane_means(column, range(4))


def _samples(count: int) -> str:
    return "1 sample" if count == 1 else f"{count:,} samples"


def _linear_ticks(low: float, high: float, unit: str) -> tuple[Tick, ...]:
    """Place a few round numbers."""
    step = 10.0 ** math.floor(math.log10((high - low) / _TICKS))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= _TICKS)
    first = math.ceil(low / step - 1e-9)
    values = [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
    return _apart([Tick(100.0 * (value - low) / (high - low), f"{value:.6g} {unit}".strip()) for value in values])


def _apart(ticks: Sequence[Tick]) -> tuple[Tick, ...]:
    """Keep the ticks that lie on the axis and not too near the one before."""
    kept: list[Tick] = []
    for tick in ticks:
        # the words of a tick at an end lie to one side of it, not around it (see report.html)
        gap = 1.5 * _TICK_GAP if tick.at > 94 or (kept and kept[-1].at < 6) else _TICK_GAP
        if -0.01 <= tick.at <= 100.01 and (not kept or tick.at - kept[-1].at >= gap):
            kept.append(Tick(round(tick.at, 2), tick.text))
    return tuple(kept)
