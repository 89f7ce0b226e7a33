"""The command line, ``aura``. Imports of a command happen when it runs, so that help is there at once."""
# ruff: noqa: PLC0415 -- see above: torch and Prefect take seconds to import

import inspect as introspection
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from aura.errors import AuraError, RecipeError
from flows.commands.cameras import cameras_app
from flows.commands.console import progress_bars, quiet, refuse, say, say_pairs
from flows.commands.export import export_app
from flows.commands.server import add_server_commands
from flows.commands.stopping import resumable
from flows.commands.store import add_store_commands
from flows.commands.weights import add_training_commands

REFUSED = 2
DEFAULT_DATA = Path("../shared/data")


commands = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="Turns sRGB photographs into camera RAW training sets.\n\n"
    "[bold]aura demo[/bold] shows the whole road on a few photographs. [bold]aura synthesize[/bold] makes a dataset "
    "of a corpus; run it again and it goes on where it was stopped. Paths may be s3:// URLs: keys and endpoint come "
    "from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL.",
    epilog="Exit codes: 0 done; 1 done, but some photographs could not be used (reconstruct), or something is damaged "
    "(verify); 2 refused, and one sentence says why; 130 and 143 stopped by ctrl-C or a termination.",
)
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the log of Prefect and Dask.")]
Cluster = Annotated[
    str,
    typer.Option(
        envvar="AURA_CLUSTER",
        help="Where to work: local, local:N for N processes, cuda for every GPU, or a Dask scheduler's tcp:// address.",
    ),
]
KeepServer = Annotated[bool, typer.Option("--keep-server", help="Leave a Prefect server that is started here running.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto for a GPU if there is one.")]
MethodName = Literal["aura", "aura_global", "upi", "linearise"]
_METHOD_HELP = "The inverse ISP: aura, its global map alone (several times faster), or a classical one."
Method = Annotated[MethodName, typer.Option(help=_METHOD_HELP)]
Data = Annotated[
    Path, typer.Option(envvar="AURA_DATA", help="Folder with the measuring and training data.", show_default=True)
]
Weights = Annotated[Path | None, typer.Option(help="Weights (safetensors) instead of the released ones.")]


def _say_version(asked: bool) -> None:
    """Say what a report of a defect needs: this release, its weights, and what computes."""
    if not asked:
        return
    import json
    import platform
    from importlib.metadata import version
    from importlib.resources import files

    weights = json.loads(files("aura").joinpath("weights/aura.json").read_text())["sha256"]
    needed = ", ".join(f"{name} {version(name)}" for name in ("torch", "prefect", "dask", "zarr"))
    say(f"aura-raw {version('aura-raw')}, weights {weights[:12]}; Python {platform.python_version()}, {needed}")
    raise typer.Exit


@commands.callback()
def about(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_say_version, help="Say what a report of a defect should name."
        ),
    ] = False,
) -> None:
    """What every command has."""


@commands.command()
def synthesize(
    corpus: Annotated[str, typer.Argument(help="Photographs: a folder, s3:// prefix, tar, Parquet file, or a list.")],
    dataset: Annotated[str, typer.Argument(help="Where to put the dataset: a folder or s3:// prefix.")],
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe (YAML) in place of the defaults; the options below are laid over it.")
    ] = None,
    canvas: Annotated[
        str | None,
        typer.Option(
            show_default="512", help="Size of a sample in pixels of the mosaic: SIDE or HEIGHTxWIDTH, multiples of 16."
        ),
    ] = None,
    mode: Annotated[
        Literal["tile", "fit"] | None,
        typer.Option(show_default="tile", help="tile cuts photographs into samples, fit shrinks them."),
    ] = None,
    camera: Annotated[
        list[str] | None,
        typer.Option(
            show_default="canon-eos-5d-mark-iv",
            help="Camera name (see aura cameras) or profile file; repeat it to draw among several.",
        ),
    ] = None,
    iso: Annotated[
        str | None,
        typer.Option(show_default="100-6400", help="ISO, or a range to draw each sample's from, evenly in stops."),
    ] = None,
    noise: Annotated[
        Literal["stored", "on_read", "none"] | None,
        typer.Option(
            show_default="stored", help="Add noise to the RAW, leave it to the reader (fresh in every epoch), or none."
        ),
    ] = None,
    noise_model: Annotated[
        Literal["calibrated", "generic"] | None,
        typer.Option(show_default="calibrated", help="The camera's own noise, or one for any camera."),
    ] = None,
    method: Annotated[MethodName | None, typer.Option(show_default="aura", help=_METHOD_HELP)] = None,
    weights: Weights = None,
    shard_size: Annotated[
        int | None, typer.Option(show_default="64", help="Samples in one object, which is one task.")
    ] = None,
    codec: Annotated[
        Literal["zstd", "lz4", "pcodec"] | None,
        typer.Option(show_default="pcodec", help="Lossless compression; pcodec is smallest, the others decode faster."),
    ] = None,
    keep_srgb: Annotated[
        bool | None,
        typer.Option(
            "--keep-srgb/--no-keep-srgb", show_default="keep-srgb", help="Store the source pixels beside the RAW."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(show_default="0", help="Everything that is drawn follows from it.")
    ] = None,
    min_psnr: Annotated[
        float | None, typer.Option(help="Gate: least mean cycle PSNR in dB, exposure and tone matched.")
    ] = None,
    max_rejects: Annotated[
        float | None, typer.Option(show_default="0.5", help="Gate: greatest share of rejected sources, 0 to 1.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Column of images or URIs in Parquet and CSV; found if left out.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the photographs, such as CC-BY-4.0; kept with every sample.")
    ] = None,
    licence_column: Annotated[
        str | None,
        typer.Option(help="Column of a list or Parquet file, or key of the JSON in a tar, that says each one's."),
    ] = None,
    licence_embedded: Annotated[
        bool, typer.Option("--licence-embedded", help="Where nothing else says it, take what each one's own XMP says.")
    ] = False,
    allow_licence: Annotated[
        list[str] | None,
        typer.Option(help="Use only photographs under this licence; repeat it for several. Others become rejects."),
    ] = None,
    annotations: Annotated[
        str | None,
        typer.Option(help="Boxes and masks of the photographs: a COCO .json file, or a folder of YOLO's .txt files."),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Any other recipe field, such as --set limits.min_side=64."),
    ] = None,
    cluster: Cluster = "local",
    in_flight: Annotated[
        int | None, typer.Option(min=1, help="Shards submitted at once; two per worker if left out.")
    ] = None,
    shard_deadline: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            metavar="SECONDS",
            help="Make a shard that takes longer elsewhere too; ten times the usual if left out.",
        ),
    ] = None,
    keep_server: KeepServer = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait while another run writes the dataset.")] = False,
    retry_rejects: Annotated[
        bool, typer.Option("--retry-rejects", help="Try again what could not be used, and nothing else.")
    ] = False,
    tag: Annotated[str | None, typer.Option(help="A name for the version that is published.")] = None,
    verbose: Verbose = False,
) -> None:
    """Make a RAW dataset of a corpus of photographs, finish one that was begun, or add what is new in the corpus.

    Folders and prefixes are read recursively, tar shards (WebDataset) and Parquet files with image bytes in place. A
    list is a .txt with a path or URI (disk, s3://, https://) on each line, or a column of a .csv or .parquet.

    Over a finished dataset it lists the corpus again: photographs that are new become new shards, those that are gone
    are left out, and the next version is published. Older versions stay as they are.

    Bad files become rows in the dataset's rejects, with the reason. The run is seen in the Prefect UI: the configured
    server's (PREFECT_API_URL or the active profile), or a local one that lives as long as the run.

    Example: aura synthesize photographs s3://bucket/street --camera nikon-d850 --iso 100-3200
    """
    quiet(verbose=verbose)
    options = {
        "corpus": corpus,
        "corpus_column": column,
        **_canvas_sides(canvas),
        "canvas.mode": mode,
        "cameras": camera or None,
        "iso": _iso(iso),
        "noise": noise,
        "noise_model": noise_model,
        "method": method,
        "weights": str(weights) if weights else None,
        "shard_size": shard_size,
        "codec": codec,
        "keep_srgb": keep_srgb,
        "seed": seed,
        "gates.min_cycle_psnr_matched": min_psnr,
        "gates.max_reject_fraction": max_rejects,
        "annotations.source": annotations,
        "licences.default": licence,
        "licences.column": licence_column,
        "licences.embedded": licence_embedded or None,
        "licences.allowed": allow_licence or None,
    }
    given = {name: value for name, value in options.items() if value is not None}
    from storage.recipe import load_recipe

    wanted = load_recipe(recipe, given | _settings(setting or []))
    from flows.commands.run import RunSettings, run_factory, tell

    with resumable():
        settings = RunSettings(cluster, in_flight, keep_server, wait, retry_rejects, tag, shard_deadline)
        run = run_factory(wanted, dataset, settings)
    tell(run)


@commands.command()
def reconstruct(
    folder: Annotated[Path, typer.Option(help="Folder with photographs.")],
    output: Annotated[Path, typer.Option(help="Folder to write to; made if it is not there.")],
    bit_depth: Annotated[
        int, typer.Option(help="Bits of the arrays, 8 to 16: 0 is black, 2^bits - 1 saturation.")
    ] = 14,
    camera: Annotated[str, typer.Option(help="Camera name or profile file.")] = "canon-eos-5d-mark-iv",
    dng: Annotated[bool, typer.Option("--dng", help="Write DNG files, with the camera's levels and noise.")] = False,
    iso: Annotated[int, typer.Option(help="With --dng: sensitivity.")] = 100,
    noise: Annotated[
        Literal["calibrated", "generic", "none"],
        typer.Option(help="With --dng: the camera's own noise, one for any camera, or none."),
    ] = "calibrated",
    seed: Annotated[int, typer.Option(min=0, help="With --dng: the noise follows from it and the file's name.")] = 0,
    device: Device = "auto",
    method: Method = "aura",
    weights: Weights = None,
) -> None:
    """Make RAW of a folder of photographs: packed arrays without noise, or DNG files.

    Each photograph becomes NAME.npy, uint16 (h, w, 4): R, Gr, Gb, B at half its size, any size. reconstruct.json
    beside them states the bit depth, the white balance and the colour matrix. With --dng it becomes NAME.dng instead,
    which any raw developer opens. A file that cannot be used is reported and skipped, and the exit code is 1.

    Example: aura reconstruct --folder photographs --output negatives --dng --camera nikon-d850 --iso 1600
    """
    from aura.reconstruct import Reconstructor
    from aura.sensor.catalog import load_profile
    from flows.commands.reconstruct_folder import (
        FACTS_NAME,
        Exposures,
        list_photographs,
        negatives_folder,
        reconstruct_folder,
    )

    files = list_photographs(folder)
    profile = load_profile(camera)
    inverse = Reconstructor.load(method, weights, device)
    with progress_bars() as listener:
        if dng:
            failures = negatives_folder(files, output, inverse, Exposures(profile, iso, noise, seed), listener)
        else:
            failures = reconstruct_folder(files, output, inverse, profile, bit_depth, listener)
    for failure in failures:
        refuse(f"{failure.path}: {failure.reason}")
    say(f"{len(files) - len(failures)} of {len(files)} photographs reconstructed by {method} as {profile.name}.")
    if dng:
        say_pairs({"negatives": f"{output}/NAME.dng, ISO {iso}, {noise} noise", "open them": f"darktable {output}"})
    else:
        say_pairs(
            {
                "arrays": f"{output}/NAME.npy, uint16 (h, w, 4): R, Gr, Gb, B",
                "bit depth": f"{bit_depth}: 0 is black, {2**bit_depth - 1} is saturation",
                "facts": str(output / FACTS_NAME),
            }
        )
    if failures:
        raise typer.Exit(1)


@commands.command()
def inspect(
    dataset: Annotated[str, typer.Argument(help="A dataset: folder or s3:// prefix, finished or not.")],
    version: Annotated[
        str | None, typer.Option(help="A published version, by number or tag; what is committed if left out.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Also write a contact sheet: source, RAW rendered, difference.")
    ] = None,
) -> None:
    """Show what lies in a dataset: counts, versions, cameras, quality, rejects."""
    from flows.commands.inspection import inspect_dataset

    inspect_dataset(dataset, version, picture)


@commands.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where photographs and dataset go.")] = Path("demo-data"),
    method: Annotated[MethodName | None, typer.Option(show_default="aura", help=_METHOD_HELP)] = None,
    cluster: Cluster = "local",
    keep_server: KeepServer = False,
    verbose: Verbose = False,
) -> None:
    """Make a small dataset of real photographs: the whole road, in a minute or two."""
    quiet(verbose=verbose)
    from flows.commands.demo import run_demo
    from flows.commands.run import RunSettings

    with resumable():
        run_demo(folder, method, RunSettings(cluster, keep_server=keep_server))


def _canvas_sides(text: str | None) -> dict[str, int]:
    if text is None:
        return {}
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() for side in sides):
        raise RecipeError(f"--canvas is {text!r}; expected SIDE or HEIGHTxWIDTH, such as 512 or 512x768.")
    return {"canvas.height": int(sides[0]), "canvas.width": int(sides[-1])}


def _iso(text: str | None) -> int | tuple[int, int] | None:
    if text is None:
        return None
    ends = text.split("-")
    if len(ends) > 2 or not all(end.isdigit() for end in ends):
        raise RecipeError(f"--iso is {text!r}; expected a value or a range, such as 800 or 100-6400.")
    return int(ends[0]) if len(ends) == 1 else (int(ends[0]), int(ends[1]))


def _settings(pairs: list[str]) -> dict[str, Any]:
    import yaml

    values = {}
    for pair in pairs:
        field, separator, value = pair.partition("=")
        if not separator or not field:
            raise RecipeError(f"--set is {pair!r}; expected FIELD=VALUE, such as limits.min_side=64.")
        try:
            values[field] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise RecipeError(f"--set {pair!r} has a value that is not YAML; quote it.") from None
    return values


def _unwrap_help(app: typer.Typer) -> None:
    """Let paragraphs of help flow as wide as the terminal, whatever the lines of the docstrings they come from."""
    for each in app.registered_commands:
        text = introspection.cleandoc((each.callback and each.callback.__doc__) or "")
        each.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


# after the commands above, so that help begins with what people come for
add_store_commands(commands)
add_training_commands(commands)
add_server_commands(commands)
commands.add_typer(cameras_app, name="cameras")
commands.add_typer(export_app, name="export")
for group in (commands, cameras_app, export_app):
    _unwrap_help(group)


def app() -> None:
    """Run the command line; an error raised on purpose becomes one sentence and exit code 2."""
    try:
        commands()
    except AuraError as error:
        refuse(str(error))
        sys.exit(REFUSED)
    except OSError as error:
        if error.filename is None:
            raise
        said = (error.strerror or type(error).__name__).lower()
        refuse(f"Cannot use {error.filename}: {said}. Check the path, or choose another place.")
        sys.exit(REFUSED)


if __name__ == "__main__":
    app()
