"""Train a small denoiser of packed RAW on a dataset, on disk or S3, with real RAW mixed in by any share.

aura synthesize ~/photographs s3://raw/street --noise on_read --camera nikon-d850 --camera sony-ilce-7sm2
python -m examples.denoise s3://raw/street --out runs/denoiser --real ~/my-raw-files --real-share 0.5
"""

from pathlib import Path
from typing import Annotated, Final

import numpy as np
import torch
import typer

from aura.errors import AuraError, InvalidInputError
from aura.reconstruct import choose_device
from examples.denoise.evaluation import evaluate
from examples.denoise.real_raw import write_real_raw
from examples.denoise.training import Schedule, load_denoiser, train
from flows.commands.console import progress_bars, refuse, say, say_table
from flows.commands.stopping import resumable
from storage.objects.location import locate
from storage.reading import Cutting, RawDataset, RawLoader, RawStream, Source

command = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False)
_RECENT: Final = 100


@command.command()
def main(
    dataset: Annotated[str, typer.Argument(help="Made with --noise on_read or none: a folder or s3:// prefix.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoint and weights.")] = Path("runs/denoiser"),
    real: Annotated[
        str | None, typer.Option(help="Real RAW to mix in: a folder of RAW files, or a dataset that was made of one.")
    ] = None,
    real_share: Annotated[float, typer.Option(min=0.01, max=0.99, help="Share of the crops that are real.")] = 0.5,
    validation: Annotated[
        str | None, typer.Option(help="Real RAW to judge by at the end, likewise; never the files trained on.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Batches to train on.")] = 2000,
    batch: Annotated[int, typer.Option(min=1, help="Crops in a batch.")] = 16,
    crop: Annotated[int, typer.Option(min=16, help="Side of the crops in packed pixels.")] = 64,
    iso: Annotated[tuple[int, int], typer.Option(help="Range that the noise is drawn from, evenly in stops.")] = (
        400,
        6400,
    ),
    exposure_ev: Annotated[tuple[float, float], typer.Option(help="Range of exposures, in stops.")] = (-3.0, 0.0),
    width: Annotated[int, typer.Option(min=4, help="Channels of the network at full size.")] = 16,
    learning_rate: Annotated[float, typer.Option(help="At its peak.")] = 2e-3,
    canvas: Annotated[int, typer.Option(help="Side of the tiles that RAW files are cut into.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="Order, crops, noise and first weights follow from it.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read.")] = 2,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1; auto takes a GPU if there is one.")] = "auto",
) -> None:
    """Train a denoiser; run the same command again and it goes on exactly where it was stopped.

    Example: python -m examples.denoise s3://raw/street --real ~/my-raw-files --real-share 0.5
    """
    chosen = choose_device(device)
    sources = [Source(dataset)]
    if real is not None:
        sources = [Source(dataset, 1 - real_share), Source(_as_dataset(real, out / "real", canvas), real_share)]
    judged = None if validation is None else _as_dataset(validation, out / "validation", canvas)
    if judged is not None:
        trained = [dataset] if real is None else [dataset, str(sources[1].url)]
        _require_apart(trained, judged)
    # a denoiser of any camera's RAW sees all four CFA patterns, so turns may rename them
    cutting = Cutting(crop=crop, augment="rename_cfa", iso=iso, exposure_ev=exposure_ev, clean=True)
    stream = RawStream(sources, batch_size=batch, cutting=cutting, crops_per_sample=4, seed=seed)
    schedule = Schedule(steps=steps, learning_rate=learning_rate, width=width, seed=seed)
    losses: list[float] = []
    with resumable(), progress_bars() as report:

        def tell(done: int, loss: float) -> None:
            losses.append(loss)
            report("Training", done, steps)

        loader = RawLoader(stream, num_workers=workers, pin_memory=chosen.type == "cuda")
        weights = train(loader, out, schedule, tell, device=chosen)
    if losses:
        say(f"Error over the last {len(losses[-_RECENT:])} steps: {np.mean(losses[-_RECENT:]):.3f} of the noise.")
    say(f"Weights: {weights}")
    if judged is not None:
        _judge(weights, judged, iso, chosen)
    else:
        say("Next: give --validation with real RAW files that were not trained on, to see what it gains.")


def _as_dataset(place: str, target: Path, canvas: int) -> str:
    """Take a dataset as it is; write a folder of RAW files as one."""
    if locate(place).join("zarr.json").exists():
        return place
    with progress_bars() as report:
        write_real_raw(
            Path(place),
            str(target),
            canvas=canvas,
            on_file=lambda done, total: report("Reading RAW files", done, total),
        )
    return str(target)


def _require_apart(trained: list[str], judged: str) -> None:
    """Refuse to judge by a file that is trained on, whatever it is called."""
    *known, own = (
        {row["source_sha256"]: row["source_uri"] for row in RawDataset(url).table.to_pylist()}
        for url in (*trained, judged)
    )
    shared = sorted(own[digest] for digest in own if any(digest in one for one in known))
    if shared:
        raise InvalidInputError(
            f"{len(shared)} of the {len(own)} files to judge by are trained on too, such as {shared[0]}; "
            "a network knows them by heart. Give --validation others."
        )


def _judge(weights: Path, url: str, trained_iso: tuple[int, int], device: torch.device) -> None:
    network = load_denoiser(weights).to(device)
    rows = []
    low, high = trained_iso
    for iso in (low, round((low * high) ** 0.5), high):
        scores = evaluate(network, url, iso)
        noisy, denoised = (np.mean([getattr(each, name) for each in scores]) for name in ("noisy_psnr_db", "psnr_db"))
        rows.append([str(iso), f"{noisy:.2f}", f"{denoised:.2f}"])
    say_table("PSNR, dB", ["ISO", "noisy", "denoised"], rows)


if __name__ == "__main__":
    try:
        command()
    except AuraError as error:
        refuse(str(error))
        raise SystemExit(2) from error
