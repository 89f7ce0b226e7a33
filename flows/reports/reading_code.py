"""Code that opens a published version: for the report, for the Prefect UI, and tested as it stands."""

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class ReadingExample:
    """A way to read a version.

    Attributes:
        title: what it is for.
        note: one sentence.
        code: Python, or a shell command.
    """

    title: str
    note: str
    code: str


def reading_example(dataset_url: str, version: int) -> str:
    """Code that reads a version in training."""
    return "\n".join(
        (
            "from torch.utils.data import DataLoader",
            "from storage.reading.map_style import RawDataset",
            "",
            f"dataset = RawDataset({dataset_url!r}, version={version})",
            "for batch in DataLoader(dataset, batch_size=8, num_workers=2):",
            '    raw = batch["raw"]  # float32 [8, 4, h, w]: R, Gr, Gb, B; 0 = black, 1 = saturation',
        )
    )


def reading_examples(dataset_url: str, version: int, crop: int) -> tuple[ReadingExample, ...]:
    """Say in code how a version is read.

    Args:
        dataset_url: where the dataset lies.
        version: number of a published version.
        crop: side of a crop that fits its samples, in packed pixels.
    """
    streamed = f"""\
from storage.reading.cutting import Cutting
from storage.reading.loading import RawLoader
from storage.reading.streaming import RawStream

cutting = Cutting(crop={crop}, augment="keep_cfa")
stream = RawStream({dataset_url!r}, version={version}, batch_size=4, cutting=cutting)
for batch in RawLoader(stream, num_workers=2):  # shuffled anew in each epoch
    raw = batch["raw"]  # float32 [4, 4, {crop}, {crop}]: R, Gr, Gb, B; 0 = black, 1 = saturation
    gains, pattern = batch["wb_gains"], batch["cfa_pattern"]"""
    single = f"""\
from storage.reading.map_style import RawDataset

dataset = RawDataset({dataset_url!r}, version={version})
sample = dataset[0]
print(sample["raw"].shape, sample["camera"], sample["iso"], sample["sample_id"])"""
    tables = f"pyarrow.dataset.dataset({dataset_url + '/samples'!r})"
    remote = "import s3fs\n" if dataset_url.startswith("s3://") else ""
    if remote:
        place = dataset_url.removeprefix("s3://") + "/samples"
        tables = f"pyarrow.dataset.dataset({place!r}, filesystem=s3fs.S3FileSystem())"
    plain = f"""\
import pyarrow.dataset
{remote}import xarray

arrays = xarray.open_zarr({dataset_url!r}, consolidated=False)  # raw: uint16 DN (sample, plane, y, x)
samples = {tables}.to_table()  # a row per sample, units in the names
first = arrays.raw[samples["index"][0].as_py()]"""
    quoted = shlex.quote(dataset_url)
    return (
        ReadingExample("Batches for training", "Crops, streamed from a disk or from S3, resumable.", streamed),
        ReadingExample("Any sample by number", "A map-style dataset for any DataLoader and sampler.", single),
        ReadingExample(
            "Without this project",
            "Plain Zarr v3 and Parquet hold every committed sample; versions/ lists which of them a version has.",
            plain,
        ),
        ReadingExample(
            "Other trainers' formats",
            "COCO and WebDataset folders, DNG files, and the figures of this page in a terminal.",
            f"aura export coco {quoted} OUT --version {version}\n"
            f"aura export webdataset {quoted} OUT --version {version}\n"
            f"aura export dng {quoted} --out OUT --version {version}\n"
            f"aura inspect {quoted} --version {version}",
        ),
    )
