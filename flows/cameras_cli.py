"""``aura cameras``: the cameras whose RAW can be made."""
# ruff: noqa: PLC0415 -- imports of a command happen when it runs, so that help is there at once

from typing import Annotated

import typer

from flows.console import command, say, say_table

cameras_app = typer.Typer(help="The cameras whose RAW can be made.", invoke_without_command=True)


@cameras_app.callback()
def cameras(context: typer.Context) -> None:
    """The cameras whose RAW can be made: list them, or show one."""
    if context.invoked_subcommand is None:
        list_cameras()


@cameras_app.command("list")
def list_cameras() -> None:
    """List the camera profiles that come with the package."""
    from aura.sensor.catalog import load_profile, profile_names

    rows = []
    for each in map(load_profile, profile_names()):
        title = each.model if each.model.startswith(each.make) else f"{each.make} {each.model}"
        iso = f"{each.iso_range[0]} to {each.iso_range[1]}"
        noise = "calibrated" if each.noise else "generic only"
        rows.append((each.name, title, each.cfa_pattern, str(each.bit_depth), iso, noise))
    say_table("Cameras", ("name", "camera", "CFA", "bits", "ISO", "noise"), rows)
    say(f"{command()} cameras show NAME tells all about one. A YAML file of the same form makes any other camera.")


@cameras_app.command("show")
def show_camera(name: Annotated[str, typer.Argument(help="Camera name or profile file.")]) -> None:
    """Show one profile as YAML: a file to copy and change for a camera of your own."""
    import yaml

    from aura.sensor.catalog import load_profile

    say(yaml.safe_dump(load_profile(name).model_dump(mode="json"), sort_keys=False).strip())
