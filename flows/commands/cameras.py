"""``aura cameras``: the cameras whose RAW can be made."""
# ruff: noqa: PLC0415 -- imports of a command happen when it runs, so that help is there at once

from pathlib import Path
from typing import Annotated

import typer

from aura.errors import InvalidInputError
from flows.commands.console import command, say, say_table

cameras_app = typer.Typer(help="The cameras whose RAW can be made.", invoke_without_command=True)

Camera = Annotated[str, typer.Argument(help="Camera name or profile file (YAML).")]
Plot = Annotated[Path | None, typer.Option(help="Also write the plot to this picture: .png, .svg or .pdf.")]


@cameras_app.callback()
def cameras(context: typer.Context) -> None:
    """The cameras whose RAW can be made: list and explain them, import and calibrate your own."""
    if context.invoked_subcommand is None:
        list_cameras()


@cameras_app.command("list")
def list_cameras() -> None:
    """List the camera profiles that come with the package."""
    from aura.sensor.catalog import load_profile, profile_names

    rows = []
    for each in map(load_profile, profile_names()):
        iso = f"{each.iso_range[0]} to {each.iso_range[1]}"
        noise = "calibrated" if each.noise else "generic only"
        rows.append((each.name, each.title, each.cfa_pattern, str(each.bit_depth), iso, noise))
    say_table("Cameras", ("name", "camera", "CFA", "bits", "ISO", "noise"), rows)
    say(f"{command()} cameras show NAME explains one; cameras import FILE makes one from a RAW file of your own.")


@cameras_app.command("show")
def show_camera(
    name: Camera,
    plot: Plot = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print the profile as a file to copy and change.")] = False,
) -> None:
    """Explain one camera: levels, colour, and its noise against the signal at several ISOs.

    Example: aura cameras show nikon-d850 --plot noise.png
    """
    from aura.sensor.catalog import load_profile, profile_yaml

    profile = load_profile(name)
    if as_yaml:
        say(profile_yaml(profile).strip())
        return
    from flows.commands.camera_facts import explain_camera

    explain_camera(profile, name, plot)


@cameras_app.command("import")
def import_camera(
    file: Annotated[Path, typer.Argument(help="A RAW file of the camera: DNG, NEF, CR2, ARW, GPR and so on.")],
    out: Annotated[Path | None, typer.Option(help="File to write; NAME.yaml if left out.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the profile; made of maker and model if left out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Make a camera profile from a RAW file's own tags: CFA, levels, colour matrix, and NoiseProfile if it has one.

    Example: aura cameras import IMG_0001.dng --name my-phone
    """
    from aura.sensor.catalog import profile_yaml
    from aura.sensor.importing import profile_from_raw

    profile = profile_from_raw(file, name)
    target = out or Path(f"{profile.name}.yaml")
    if target.exists() and not force:
        raise InvalidInputError(f"{target} is there already; choose another --out, or --force to write over it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(profile_yaml(profile), encoding="utf-8")
    noise = "with the noise of its NoiseProfile tag" if profile.noise else "without noise: calibrate it, or use generic"
    say(f"{profile.title} as {target}, {noise}.")
    say(f"Look at it: {command()} cameras show {target}")
    generic = "" if profile.noise else " --noise-model generic"
    say(f"Use it: {command()} synthesize PHOTOGRAPHS DATASET --camera {target}{generic}")


@cameras_app.command("calibrate")
def calibrate(
    dark: Annotated[list[Path], typer.Option(help="RAW file taken with the cap on, or a folder; repeat it.")],
    flat: Annotated[
        list[Path] | None, typer.Option(help="RAW file of an evenly lit surface, or a folder; repeat it.")
    ] = None,
    camera: Annotated[
        str | None, typer.Option(help="Profile the noise goes into; made from the first file's tags if left out.")
    ] = None,
    iso: Annotated[int | None, typer.Option(min=1, help="ISO of the frames; the first file's own if left out.")] = None,
    out: Annotated[Path | None, typer.Option(help="Profile (YAML) to write, with the measured noise.")] = None,
    plot: Plot = None,
) -> None:
    """Measure a camera's noise by photon transfer: gain K, read noise, row noise and black level, with intervals.

    Take two frames of each of five or more exposures of an evenly lit surface, from a tenth to nine tenths of
    saturation, and two with the cap on, all as RAW at one ISO. Headerless dumps are read with a manifest.json.

    Example: aura cameras calibrate --flat flats/ --dark darks/ --out mine.yaml --plot transfer.png
    """
    from flows.commands.calibration import CalibrationOrder, calibrate_camera

    calibrate_camera(CalibrationOrder(tuple(flat or ()), tuple(dark), camera, iso, out, plot))
