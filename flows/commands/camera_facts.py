"""What a camera profile says, for people: its levels, colour, and noise against signal."""

from pathlib import Path
from typing import Final

from aura.errors import NoiseUnavailableError
from aura.sensor.noise import NoiseParameters, noise_iso_range, typical_noise
from aura.sensor.profile import SensorProfile
from aura.sensor.simulate import color_under
from flows.commands.camera_plots import noise_chart, noise_figure, require_plot_name, write_figure
from flows.commands.console import command, say, say_pairs, say_table

_TUNGSTEN_KELVIN: Final = 2856.0
_GREY: Final = 0.18
_MOST_LINES: Final = 7


def explain_camera(profile: SensorProfile, given: str, plot: Path | None) -> None:
    """Print what a profile says, with a chart of its noise; without a calibration, the generic model's, named so.

    Args:
        profile: the camera.
        given: the name or file the user gave, for the next command.
        plot: file to write the plot to as well.

    Raises:
        InvalidInputError: the plot's name is none of a picture.
    """
    if plot is not None:
        require_plot_name(plot)
    levels = profile.levels_at(profile.iso_range[0])
    say(f"{profile.title} ({profile.name})")
    say_pairs(
        {
            "CFA": f"{profile.cfa_pattern}, {profile.bit_depth} bits",
            "ISO": f"{profile.iso_range[0]} to {profile.iso_range[1]}",
            "black level": _levels(levels.black_level) + _further(profile),
            "white level": _levels(levels.white_level) + _further(profile),
            "gains at D65": _gains(color_under(profile, None)[0]),
            "gains at 2856 K": _gains(color_under(profile, _TUNGSTEN_KELVIN)[0]),
            "source": profile.source,
        }
    )
    noises, title = _noises(profile)
    if not noises:
        return
    _say_noise(noises, profile)
    range_dn = profile.levels_at(next(iter(noises))).range_dn
    say(noise_chart(noises, range_dn))
    if plot is not None:
        write_figure(noise_figure(f"{profile.title}{title}", noises, range_dn), plot)
        say(f"Plot: {plot}")
    say(f"{command()} cameras show {given} --yaml prints it as a file to copy and change.")


def _noises(profile: SensorProfile) -> tuple[dict[int, NoiseParameters], str]:
    if profile.noise is not None:
        say(f"Noise: {profile.noise.source}")
        low, high = noise_iso_range(profile)
        return {iso: typical_noise(profile, iso) for iso in _stops(low, high)}, ""
    say("Noise: not calibrated. Noisy RAW of this camera is refused unless --noise-model generic is asked for:")
    try:
        low, high = noise_iso_range(profile, "generic")
    except NoiseUnavailableError as error:
        say(str(error))
        return {}, ""
    noises = {iso: typical_noise(profile, iso, model="generic") for iso in _stops(low, high)}
    return noises, ", generic noise model"


def _stops(low: int, high: int) -> list[int]:
    """ISOs a stop apart, or two where that is too many, both ends included."""
    stops = [low]
    while 2 * stops[-1] < high:
        stops.append(2 * stops[-1])
    stops.append(high)
    chosen = sorted(set(stops))
    return chosen if len(chosen) <= _MOST_LINES else sorted({*chosen[::2], high})


def _say_noise(noises: dict[int, NoiseParameters], profile: SensorProfile) -> None:
    rows = []
    for iso, noise in noises.items():
        gain = noise.system_gain_dn_per_electron
        range_dn = profile.levels_at(iso).range_dn
        grey = _GREY * range_dn
        rows.append(
            (
                str(iso),
                f"{gain:.3g}",
                f"{noise.read_sigma_dn:.2f}",
                f"{noise.read_sigma_dn / gain:.2f}",
                f"{noise.row_sigma_dn:.2f}",
                f"{range_dn / gain:,.0f}",
                f"{grey / noise.variance_dn2(grey) ** 0.5:.0f}",
            )
        )
    titles = ("ISO", "K, DN/e-", "read, DN", "read, e-", "row, DN", "saturation, e-", "SNR at 18 % grey")
    say_table("Noise (sigma)", titles, rows)


def _levels(four: tuple[float, ...]) -> str:
    return f"{four[0]:g}" if len(set(four)) == 1 else "R {:g}, Gr {:g}, Gb {:g}, B {:g}".format(*four)


def _further(profile: SensorProfile) -> str:
    return f" at ISO {profile.iso_range[0]}; others at some ISOs, see --yaml" if len(profile.levels) > 1 else ""


def _gains(gains: tuple[float, float, float]) -> str:
    return "R {:.3f}, G {:.3f}, B {:.3f}".format(*gains)
