"""``aura export``: a dataset's samples as files that other programs open."""
# ruff: noqa: PLC0415 -- imports of a command happen when it runs, so that help is there at once

from typing import Annotated, Literal

import typer

from flows.console import command, progress_bars, say, say_pairs

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
    from storage.exporting import export_webdataset

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

    Samples carry no labels yet: annotations are empty.

    Example: aura export coco s3://bucket/street street-coco --images rendered
    """
    from storage.exporting import export_coco

    with progress_bars() as listener:
        made = export_coco(
            dataset, target, _version(version), lambda done, total: listener("samples", done, total), images
        )
    say(f"{made.samples} images written, without annotations.")
    say_pairs(
        {
            "images": f"{made.place}/images",
            "index": f"{made.place}/instances.json",
            "next": f"{command()} inspect {dataset} shows what they came from",
        }
    )


def _version(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.isdigit() else text
