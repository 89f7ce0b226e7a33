"""The same samples in the formats of litdata, mosaicml-streaming and webdataset, and their loaders.

Each format is written by its own writer and read by its own loader with its own shuffling, as its documentation says.
Records are uncompressed, which is these libraries' default and the fastest to read.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import boto3
import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

Layout = Literal["whole", "several", "cut"]
"""A record is a sample, of which one random crop is cut at each pass; a sample, of which all random crops are cut at
once into one batch; or a crop that was cut beforehand, always the same."""

Record = dict[str, np.ndarray]
CHUNK_BYTES = 64 << 20


@dataclass(frozen=True)
class Reading:
    """What every loader has to deliver: ``raw`` float32 ``[batch, 4, side, side]``, and ``levels``."""

    layout: Layout
    side: int
    crops: int
    batch: int
    workers: int

    @property
    def passes(self) -> int:
        """How often all records are read for the same number of crops."""
        return self.crops if self.layout == "whole" else 1

    @property
    def records(self) -> int:
        """Records to a batch."""
        return self.batch // self.crops if self.layout == "several" else self.batch

    def develop(self, record: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Turn a record into what the network takes."""
        raw, levels = np.asarray(record["raw"]), np.asarray(record["levels"])
        black, scale = levels[:4, None, None], 1 / (levels[4:, None, None] - levels[:4, None, None])
        if self.layout == "cut":
            pieces = [raw]
        else:
            room = (raw.shape[1] - self.side + 1, raw.shape[2] - self.side + 1)
            places = np.random.default_rng().integers(0, room, (self.crops, 2))
            wanted = places if self.layout == "several" else places[:1]
            pieces = [raw[:, top : top + self.side, left : left + self.side] for top, left in wanted]
        developed = [torch.from_numpy((piece.astype(np.float32) - black) * scale) for piece in pieces]
        images = torch.stack(developed) if self.layout == "several" else developed[0]
        return {"raw": images, "levels": torch.from_numpy(levels.copy())}

    def collate(self, items: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """Make a batch; of several crops at once their first two axes become one."""
        batch: dict[str, torch.Tensor] = default_collate(items)
        if self.layout == "several":
            batch["raw"] = batch["raw"].flatten(0, 1)
        return batch


def records_of(samples: Sequence[Record], layout: Layout, side: int) -> Iterator[Record]:
    """Yield what a format stores."""
    for sample in samples:
        raw = sample["raw"]
        if layout != "cut":
            yield sample
            continue
        for top in range(0, raw.shape[1] - side + 1, side):
            for left in range(0, raw.shape[2] - side + 1, side):
                piece = np.ascontiguousarray(raw[:, top : top + side, left : left + side])
                yield {"raw": piece, "levels": sample["levels"]}


def write_litdata(folder: Path, records: Iterator[Record]) -> None:
    """Write chunks of 64 MiB."""
    from litdata.streaming import Cache  # noqa: PLC0415

    cache = Cache(str(folder), chunk_bytes=CHUNK_BYTES)
    for number, record in enumerate(records):
        cache[number] = record
    cache.done()
    cache.merge()


def write_mosaic(folder: Path, records: Iterator[Record]) -> None:
    """Write MDS shards of 64 MiB."""
    import streaming  # noqa: PLC0415

    columns = {"raw": "ndarray:uint16", "levels": "ndarray:float32"}
    with streaming.MDSWriter(out=str(folder), columns=columns, size_limit=CHUNK_BYTES) as writer:
        for record in records:
            writer.write(record)


def write_webdataset(folder: Path, records: Iterator[Record]) -> None:
    """Write tars of 64 MiB; a 16th of them at least, so that shards can be shuffled and shared by workers."""
    import webdataset  # noqa: PLC0415

    folder.mkdir(parents=True)
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxsize=CHUNK_BYTES // 4, verbose=0) as writer:
        for number, record in enumerate(records):
            writer.write({"__key__": f"{number:08d}", "raw.npy": record["raw"], "levels.npy": record["levels"]})


def read_litdata(place: str, cache: Path, reading: Reading) -> Iterator[Any]:
    """Yield loaders' batches, pass by pass."""
    import litdata  # noqa: PLC0415
    from litdata.streaming import downloader  # noqa: PLC0415

    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # noqa: SLF001  # it has no other way to say so
    options = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"]} if place.startswith("s3://") else None
    dataset = litdata.StreamingDataset(
        place,
        cache_dir=str(cache) if options else None,
        shuffle=True,
        drop_last=False,
        storage_options=options,
        transform=reading.develop,
    )
    loader = litdata.StreamingDataLoader(
        dataset, batch_size=reading.records, num_workers=reading.workers, collate_fn=reading.collate
    )
    for _ in range(reading.passes):
        yield from _passed(loader)


class _MosaicDataset:
    """Made late, since importing streaming needs torchvision to be imported with care."""

    def __new__(cls, reading: Reading, **options: Any) -> Any:
        import streaming  # noqa: PLC0415

        class Developing(streaming.StreamingDataset):
            def __getitem__(self, at: Any) -> Any:
                return reading.develop(super().__getitem__(at))

        return Developing(**options)


def read_mosaic(place: str, cache: Path, reading: Reading) -> Iterator[Any]:
    """Yield loaders' batches; passes are one epoch of a repeated stream, its own way to say that."""
    import streaming  # noqa: PLC0415

    streaming.base.util.clean_stale_shared_memory()
    remote = place if place.startswith("s3://") else None
    stream = streaming.Stream(remote=remote, local=str(cache) if remote else place, repeat=reading.passes)
    dataset = _MosaicDataset(reading, streams=[stream], shuffle=True, batch_size=reading.records, num_canonical_nodes=1)
    loader = DataLoader(dataset, batch_size=reading.records, num_workers=reading.workers, collate_fn=reading.collate)
    yield from _passed(loader)


def read_webdataset(place: str, cache: Path, reading: Reading) -> Iterator[Any]:  # noqa: ARG001  # it keeps no cache
    """Yield loaders' batches: shuffled tars, a shuffle buffer of 100 records, batches made in the workers."""
    import webdataset  # noqa: PLC0415

    urls = sorted(map(str, Path(place).glob("*.tar"))) if not place.startswith("s3://") else _s3_tars(place)
    dataset = (
        webdataset.WebDataset(urls * reading.passes, shardshuffle=len(urls), empty_check=False)
        .shuffle(100)
        .decode()
        .map(lambda record: reading.develop({"raw": record["raw.npy"], "levels": record["levels.npy"]}))
        .batched(reading.records, collation_fn=reading.collate)
    )
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=reading.workers)
    yield from _passed(loader)


def _passed(loader: Any) -> Iterator[Any]:
    yield None  # a pass begins
    yield from loader


def _s3_tars(place: str) -> list[str]:
    """Signed addresses, read by curl: the way of reading S3 that webdataset documents."""
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    keys = [item["Key"] for item in client.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"]]
    signed = [client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key}) for key in sorted(keys)]
    return [f"pipe:curl -s -f -L '{url}'" for url in signed]


Write = Callable[[Path, Iterator[Record]], None]
Read = Callable[[str, Path, Reading], Iterator[Any]]
PEERS: dict[str, tuple[Write, Read]] = {
    "litdata": (write_litdata, read_litdata),
    "mosaicml-streaming": (write_mosaic, read_mosaic),
    "webdataset": (write_webdataset, read_webdataset),
}


def write_once(folder: Path, write: Write, records: Iterator[Record]) -> None:
    """Write a format, unless an earlier run did."""
    if (folder.parent / f"{folder.name}.done").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    write(folder, records)
    (folder.parent / f"{folder.name}.done").touch()
