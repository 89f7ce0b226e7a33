"""``aura export``: a dataset's samples as files that other programs open."""
# ruff: noqa: PLC0415 -- imports of a command happen when it runs, so that help is there at once

import typer

export_app = typer.Typer(no_args_is_help=True, help="Write a dataset's samples as files that other programs open.")
