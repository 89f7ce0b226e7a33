"""``aura export``: a dataset's samples as files that other programs open."""


import typer

export_app = typer.Typer(no_args_is_help=True, help="Write a dataset's samples as files that other programs open.")
