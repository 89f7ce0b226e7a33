"""Reading a dataset as a torch Dataset of dicts, from disk or S3, in any number of worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import zarr

from aura.errors import InvalidInputError
from storage.dataset import Dataset, open_dataset
from storage.location import Location, refusals
from storage.samples import SAMPLE_SCHEMA
from storage.versions import read_version, resolve_version

Sample = dict[str, Any]
Transform = Callable[[Sample], Any]

_LOADERS: Final = 16
_SCALARS: Final = (
    "noise_system_gain_dn_per_electron",
    "noise_read_sigma_dn",
    "noise_read_tukey_lambda",
    "noise_row_sigma_dn",
    "noise_quantisation_step_dn",
    "exposure",
)
_VECTORS: Final = {
    "black_level_dn": 4,
    "white_level_dn": 4,
    "noise_black_offset_dn": 4,
    "wb_gains": 3,
    "camera_to_srgb": 9,
}
_TEXTS: Final = ("sample_id", "camera", "cfa_pattern", "noise_model")
_INTEGERS: Final = ("index", "iso", "valid_height_px", "valid_width_px")


@dataclass(frozen=True, slots=True)
class _Handles:
    """What one process holds open."""

    process: int
    raw: zarr.Array[Any]
    srgb: zarr.Array[Any] | None
    threads: ThreadPoolExecutor


class RawDataset(torch.utils.data.Dataset[Any]):
    """A published version as a map-style torch Dataset; give it to any DataLoader, shuffled or not, forked or spawned.

    The table of samples is read once, when this is made; an item then costs its own chunk and nothing else. Storage is
    opened lazily in each process, so the object may be pickled and may cross a fork.

    An item is a dict that torch's default collate function takes:

    * ``raw`` float32 ``[4, h, w]``, planes R, Gr, Gb, B: (DN - black) / (white - black), so 0 is black and 1 is
      saturation, noise may lie below 0; exactly 0 outside the valid area.
    * ``srgb`` float32 ``[3, 2h, 2w]`` in [0, 1], the source pixels; only where the dataset keeps them.
    * ``valid`` int64 ``[2]``: rows and columns of ``raw`` that hold pixels, from the top left.
    * ``black_level_dn``, ``white_level_dn`` float32 ``[4]``; ``iso`` int64.
    * ``noise_system_gain_dn_per_electron``, ``noise_read_sigma_dn``, ``noise_row_sigma_dn``,
      ``noise_quantisation_step_dn`` float32, ``noise_read_tukey_lambda`` float32 (NaN: Gaussian),
      ``noise_black_offset_dn`` float32 ``[4]``.
    * ``wb_gains`` float32 ``[3]``, ``camera_to_srgb`` float32 ``[3, 3]``, ``exposure`` float32.
    * ``index`` int64, and the texts ``sample_id``, ``camera``, ``cfa_pattern``, ``noise_model``.

    Attributes:
        dataset: the handle it reads through.
        table: the samples table (:data:`storage.samples.SAMPLE_SCHEMA`), row i belongs to item i.
    """

    def __init__(
        self,
        url: str | os.PathLike[str] | Location,
        version: int | str | None = None,
        transform: Transform | None = None,
    ) -> None:
        """Open a dataset and read its table of samples.

        Args:
            url: where the dataset lies.
            version: a published version by number or tag, None for the newest, or ``"unpublished"`` for all shards
                finished by now.
            transform: is applied to each item, in the process that reads it.

        Raises:
            MissingFileError: there is no dataset, no such version, or no version at all.
            IntegrityError: a table is damaged.
            StorageAccessError: the credentials were refused.
            StorageError: the storage refused.
        """
        self.dataset, shards, removed = _choose(url, version)
        self.table = _load_table(self.dataset, shards, removed)
        self.transform = transform
        self._columns = _columns(self.table)
        self._handles: _Handles | None = None

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, item: int) -> Any:
        """Return one sample; negative numbers count from the end.

        Raises:
            IndexError: there is no such sample.
            StorageError: the storage refused.
        """
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[int]) -> list[Any]:
        """Return several samples, fetched at the same time; a DataLoader calls this with a whole batch.

        Raises:
            IndexError: there is no such sample.
            StorageError: the storage refused.
        """
        places = [self._place(item) for item in items]
        with refusals(self.dataset.location.url, "read"):
            handles = self._open()
            if len(places) == 1:
                samples = [self._sample(handles, places[0])]
            else:
                samples = list(handles.threads.map(lambda place: self._sample(handles, place), places))
        return samples if self.transform is None else [self.transform(sample) for sample in samples]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handles": None}

    def _place(self, item: int) -> int:
        place = item + len(self) if item < 0 else item
        if not 0 <= place < len(self):
            raise IndexError(f"Sample {item} is outside the dataset's {len(self)} samples.")
        return place

    def _open(self) -> _Handles:
        if (
            self._handles is None or self._handles.process != os.getpid()
        ):  # neither connections nor threads survive a fork
            self._handles = _Handles(
                process=os.getpid(),
                raw=self.dataset.open_raw(),
                srgb=self.dataset.open_srgb(),
                threads=ThreadPoolExecutor(_LOADERS, thread_name_prefix="samples"),
            )
        return self._handles

    def _sample(self, handles: _Handles, place: int) -> Sample:
        columns = self._columns
        index = int(columns["index"][place])
        planes = np.asarray(handles.raw[index])
        height, width = int(columns["valid_height_px"][place]) // 2, int(columns["valid_width_px"][place]) // 2
        black = columns["black_level_dn"][place][:, None, None]
        white = columns["white_level_dn"][place][:, None, None]
        raw = np.zeros(planes.shape, np.float32)
        raw[:, :height, :width] = (planes[:, :height, :width] - black) / (white - black)
        sample: Sample = {"raw": torch.from_numpy(raw), "valid": torch.tensor([height, width])}
        if handles.srgb is not None:
            pixels = np.asarray(handles.srgb[index])
            sample["srgb"] = torch.from_numpy(np.divide(pixels, np.float32(255), dtype=np.float32))
        for name in _SCALARS:
            sample[name] = torch.tensor(columns[name][place])
        for name in _VECTORS:
            sample[name] = torch.from_numpy(columns[name][place].copy())
        sample["camera_to_srgb"] = sample["camera_to_srgb"].reshape(3, 3)
        sample["iso"] = int(columns["iso"][place])
        sample["index"] = index
        return sample | {name: str(columns[name][place]) for name in _TEXTS}


def _choose(
    url: str | os.PathLike[str] | Location, version: int | str | None
) -> tuple[Dataset, list[int], frozenset[int]]:
    """Return the dataset, the shards that are read, and the indexes of samples in them that are not."""
    dataset = open_dataset(url)
    if version == "unpublished":
        return dataset, dataset.committed_shards(), frozenset()
    if version is not None and not isinstance(version, (int, str)):
        raise InvalidInputError(
            f"version is {version!r}; give a number or a tag, None for the newest, or 'unpublished'."
        )
    number = resolve_version(dataset.location, version)
    chosen = read_version(dataset.location, number)
    return replace(dataset, version=number), [shard.shard for shard in chosen.shards], chosen.removed


def _load_table(dataset: Dataset, shards: list[int], removed: frozenset[int]) -> pa.Table:
    if not shards:
        return SAMPLE_SCHEMA.empty_table()
    with ThreadPoolExecutor(_LOADERS) as pool:
        tables = [table.replace_schema_metadata(None) for table in pool.map(dataset.samples, shards)]
    table = pa.concat_tables(tables).combine_chunks()
    if removed:
        table = table.filter(pa.array([index not in removed for index in table["index"].to_pylist()], pa.bool_()))
    return table.combine_chunks()


def _columns(table: pa.Table) -> dict[str, npt.NDArray[Any]]:
    columns: dict[str, npt.NDArray[Any]] = {name: table[name].to_numpy() for name in _INTEGERS + _TEXTS}
    for name in _SCALARS:
        columns[name] = table[name].to_numpy().astype(np.float32)
    for name, length in _VECTORS.items():
        flat = table[name].combine_chunks().flatten() if table.num_rows else pa.array([], pa.float32())
        columns[name] = flat.to_numpy().astype(np.float32).reshape(-1, length)
    return columns
