"""Plots of sensors: noise against signal, and photon transfer."""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from aura.errors import InvalidInputError
from aura.sensor.calibration import Calibration
from aura.sensor.noise import NoiseParameters

_PLANE_NAMES: Final = ("R", "Gr", "Gb", "B")
_PLANE_COLORS: Final = ("#d0342c", "#2e8b3d", "#7bbf3a", "#1f5fbf")
_MARKS: Final = "1234567"
_CHART_COLUMNS: Final = 64
_CHART_ROWS: Final = 14
_LEAST_SIGNAL: Final = 1e-4
_SUFFIXES: Final = (".png", ".svg", ".pdf")


def noise_figure(title: str, noises: Mapping[int, NoiseParameters], range_dn: float) -> Figure:
    """Plot noise against signal, both as shares of saturation, a line for each ISO.

    Args:
        title: the camera.
        noises: by ISO.
        range_dn: DN from black to saturation.
    """
    figure = Figure(figsize=(7.5, 5.0), layout="constrained")
    axes = figure.add_subplot()
    signal = np.logspace(math.log10(_LEAST_SIGNAL), 0.0, 200)
    for iso, noise in noises.items():
        axes.loglog(signal, _share(noise, signal, range_dn), label=f"ISO {iso}")
    for ratio in (1, 10, 100):
        axes.loglog(signal, signal / ratio, color="0.8", linewidth=0.8, zorder=0)
        axes.annotate(f" SNR {ratio}", (1.0, 1.0 / ratio), color="0.5", fontsize=8, ha="left", va="center")
    axes.set(xlabel="signal, share of saturation", ylabel="noise (1 sigma), share of saturation", title=title)
    axes.set_xlim(_LEAST_SIGNAL, 3.0)  # room for the words beside the ends of the lines
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend()
    return figure


def noise_chart(noises: Mapping[int, NoiseParameters], range_dn: float) -> str:
    """Draw the same as text: both axes logarithmic, a digit for each ISO."""
    signal = np.logspace(math.log10(_LEAST_SIGNAL), 0.0, _CHART_COLUMNS)
    lines = [np.log10(_share(noise, signal, range_dn)) for noise in noises.values()]
    low, high = math.floor(min(line.min() for line in lines)), max(line.max() for line in lines)
    cells = [[" "] * _CHART_COLUMNS for _ in range(_CHART_ROWS)]
    for mark, line in zip(_MARKS, lines, strict=False):
        for column, value in enumerate(line):
            cells[_CHART_ROWS - 1 - round((value - low) / (high - low) * (_CHART_ROWS - 1))][column] = mark
    labels = {0: f"{10**high:.2%}", _CHART_ROWS - 1: f"{10**low:.3%}"}
    drawn = [f"{labels.get(row, ''):>9} |{''.join(cell)}" for row, cell in enumerate(cells)]
    axis = f"{'':>9} +{'-' * _CHART_COLUMNS}"
    ends = f"{'':>10} {f'{_LEAST_SIGNAL:.2%}':<{_CHART_COLUMNS - 4}}100%"
    legend = ", ".join(f"{mark} = ISO {iso}" for mark, iso in zip(_MARKS, noises, strict=False))
    return "\n".join([*drawn, axis, ends, f"{'':>10} noise (1 sigma) over signal, shares of saturation; {legend}"])


def transfer_figure(title: str, calibration: Calibration) -> Figure:
    """Plot variance against signal of every block, and the line whose slope is the gain."""
    if calibration.gain is None:
        raise InvalidInputError("Without flat frames there is no photon transfer to plot.")
    points, gain = calibration.gain.points, calibration.gain.system_gain_dn_per_electron
    figure = Figure(figsize=(7.5, 5.0), layout="constrained")
    axes = figure.add_subplot()
    left_out = ~points.used
    axes.plot(points.signal_dn[left_out], points.variance_dn2[left_out], ".", color="0.8", ms=3, label="left out")
    for plane, (name, color) in enumerate(zip(_PLANE_NAMES, _PLANE_COLORS, strict=True)):
        chosen = points.used & (points.plane == plane)
        axes.plot(points.signal_dn[chosen], points.variance_dn2[chosen], ".", color=color, ms=3, alpha=0.5, label=name)
    signal = np.linspace(0.0, float(points.signal_dn.max()), 200)
    share = calibration.gain.response_nonuniformity
    line = calibration.gain.intercept_dn2 + gain.value * signal + (share * signal) ** 2
    axes.plot(signal, line, color="black", linewidth=1.2)
    axes.set_ylim(0.0, 1.5 * float(line.max()))
    axes.set(
        xlabel="signal, DN above black",
        ylabel="variance, DN²",
        title=f"{title}: K = {gain.value:.4g} DN per electron (95 %: {gain.low:.4g} to {gain.high:.4g})",
    )
    axes.grid(visible=True, alpha=0.3)
    axes.legend(markerscale=3)
    return figure


def require_plot_name(path: Path) -> None:
    """Check a plot's name before any work.

    Raises:
        InvalidInputError: a suffix that is none of a picture.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise InvalidInputError(f"The plot is {path.name}; expected a name that ends in {', '.join(_SUFFIXES)}.")


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all, in the format of its suffix.

    Raises:
        InvalidInputError: a suffix that is none of a picture.
    """
    require_plot_name(path)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=130)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


def _share(noise: NoiseParameters, signal: np.ndarray, range_dn: float) -> np.ndarray:
    return np.asarray([math.sqrt(noise.variance_dn2(share * range_dn)) / range_dn for share in signal])
