"""``aura export``: a dataset's samples as files that other programs open."""
# ruff: noqa: PLC0415 -- imports of a command happen when it runs, so that help is there at once

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.commands.console import command, progress_bars, say, say_pairs

export_app = typer.Typer(no_args_is_help=True, help="Write a dataset's samples as files that other programs open.")

Dataset = Annotated[str, typer.Argument(help="A dataset: folder or s3:// prefix.")]
Target = Annotated[str, typer.Argument(help="An empty folder or s3:// prefix to write to.")]
Version = Annotated[
    str | None, typer.Option(help="A version's number or tag, or 'unpublished'; the newest version if left out.")
]


@export_app.command()
def webdataset(dataset: Dataset, target: Target, version: Version = None) -> None:
    """Write WebDataset tars: NNNNNNNN.raw.npy, .srgb.npy where kept, and .json with all that is known of a sample.

    raw.npy is uint16 (4, h, w), digital numbers of R, Gr, Gb, B; without padding. One tar per shard.

    Example: aura export webdataset s3://bucket/street street-tars --version 2
    """
    from storage.reading.exporting import export_webdataset

    with progress_bars() as listener:
        made = export_webdataset(
            dataset, target, _version(version), lambda done, total: listener("samples", done, total)
        )
    say(f"{made.samples} samples written to {made.objects} tars.")
    say_pairs(
        {
            "tars": f"{made.place}/NNNNNNNN.tar",
            "read with": f'webdataset.WebDataset("{made.place}/{{00000000..{made.objects - 1:08d}}}.tar").decode()',
        }
    )


@export_app.command()
def coco(
    dataset: Dataset,
    target: Target,
    version: Version = None,
    images: Annotated[
        Literal["mosaic", "rendered"],
        typer.Option(help="mosaic: 16-bit PNG of the Bayer mosaic; rendered: 8-bit sRGB, plainly developed."),
    ] = "mosaic",
) -> None:
    """Write a COCO dataset: images/NNNNNNNN.png, and instances.json with all that is known of each in its "raw".

    Boxes, categories and masks of the version's annotations come along, in pixels of each image.

    Example: aura export coco s3://bucket/street street-coco --images rendered
    """
    from storage.reading.exporting import export_coco

    with progress_bars() as listener:
        made = export_coco(
            dataset, target, _version(version), lambda done, total: listener("samples", done, total), images
        )
    say(f"{made.samples} images written, with {made.annotations} annotations.")
    say_pairs(
        {
            "images": f"{made.place}/images",
            "index": f"{made.place}/instances.json",
            "next": f"{command()} inspect {dataset} shows what they came from",
        }
    )


@export_app.command()
def dng(
    dataset: Dataset,
    out: Annotated[Path, typer.Option(help="Folder to write to; made if it is not there.")],
    version: Annotated[
        str | None, typer.Option(help="A published version, by number or tag; the newest if left out.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="So many samples, evenly spread over the dataset; all if left out.")
    ] = None,
) -> None:
    """Write samples as DNG files, which any raw developer opens.

    INDEX.dng holds the mosaic as stored, bit for bit, with the camera's CFA, levels, colour matrix, white balance and
    noise profile, the photograph as preview, and its provenance in XMP. Files that are there already are left alone, so
    the same command goes on where it was stopped.

    Example: aura export dng demo-data/dataset --out negatives --limit 20
    """
    from flows.commands.export_dng import export_dng

    with progress_bars() as listener:
        exported = export_dng(dataset, out, version, limit, listener)
    there = f", {exported.found} of them there already" if exported.found else ""
    say(f"{len(exported.paths)} samples as DNG in {out}{there}.")
    say_pairs({"size": f"{exported.bytes / 1e6:.1f} MB", "first": str(exported.paths[0])})
    say(f"Open them in any raw developer, such as: darktable {exported.paths[0]}")


def _version(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdigit() else text
