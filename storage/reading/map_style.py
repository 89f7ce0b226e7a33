"""Reading a dataset as a map-style torch Dataset of dicts, from disk or S3, in any number of worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from aura.errors import InvalidInputError
from storage.objects.location import Location
from storage.objects.refusals import refusals
from storage.objects.transport import TransportName
from storage.reading.crop_annotations import SampleAnnotations
from storage.reading.crops import Cutter, Frame
from storage.reading.cutting import Cutting
from storage.reading.frames import FrameReader
from storage.reading.sample_columns import VersionName, as_columns, choose_version, load_samples
from storage.reading.selection import select
from storage.reading.shared_epoch import SharedEpoch
from storage.reading.splits import Split

Sample = dict[str, Any]
Transform = Callable[[Sample], Any]

_LOADERS: Final = 16
_PLAIN: Final = {"index", "iso", "source", "orientation", "crop_top", "crop_left"}


@dataclass(frozen=True, slots=True)
class _Handles:
    """What one process holds open."""

    process: int
    frames: FrameReader
    threads: ThreadPoolExecutor


class RawDataset(torch.utils.data.Dataset[Any]):
    """A published version as a map-style torch Dataset; give it to any DataLoader, shuffled or not, forked or spawned.

    The table of samples is read once, when this is made; an item then costs its own chunk and nothing else. Storage is
    opened lazily in each process, so the object may be pickled and may cross a fork. For training at full speed, with
    several crops of each sample, mixtures and exact resuming, see :class:`storage.reading.RawStream`.

    An item is a dict that torch's default collate function takes (h, w are the canvas, or the crop):

    * ``raw`` float32 ``[4, h, w]``, planes R, Gr, Gb, B: (DN - black) / (white - black), so 0 is black and 1 is
      saturation, noise may lie below 0; exactly 0 outside the valid area.
    * ``srgb`` float32 ``[3, 2h, 2w]`` in [0, 1], the source pixels; only where the dataset keeps them.
    * ``clean`` float32 ``[4, h, w]``: ``raw`` before noise was added, if asked for.
    * ``valid`` int64 ``[2]``: rows and columns of ``raw`` that hold pixels, from the top left.
    * ``black_level_dn``, ``white_level_dn`` float32 ``[4]``; ``iso`` int64.
    * ``noise_system_gain_dn_per_electron``, ``noise_read_sigma_dn``, ``noise_row_sigma_dn``,
      ``noise_quantisation_step_dn`` float32, ``noise_read_tukey_lambda`` float32 (NaN: Gaussian),
      ``noise_black_offset_dn`` float32 ``[4]``: of the noise that is in ``raw``.
    * ``wb_gains`` float32 ``[3]``, ``camera_to_srgb`` float32 ``[3, 3]``, ``exposure`` float32.
    * ``crop_top``, ``crop_left`` int64: where the crop lay in the sample, in packed pixels; ``orientation`` int64, how
      it was turned (:data:`aura.augment.ORIENTATIONS`).
    * ``annotations``, if asked for: a list of the objects in the crop, or None where nobody annotated the photograph;
      each as :data:`storage.labelling.annotating.ANNOTATION` describes it, in pixels of the crop's mosaic (those of
      ``srgb``). Batches of them need :func:`storage.reading.targets.collate`.
    * ``index`` int64, ``source`` int64 (number of the dataset it comes from), and the texts ``sample_id``, ``camera``,
      ``cfa_pattern``, ``noise_model``.

    Attributes:
        dataset: the handle it reads through.
        table: the samples table (:data:`storage.datasets.samples.SAMPLE_SCHEMA`), row i belongs to item i.
        epoch: what is drawn for an item (crop, noise) follows from it; see :meth:`set_epoch`.
    """

    def __init__(
        self,
        url: str | os.PathLike[str] | Location,
        version: VersionName = None,
        transform: Transform | None = None,
        *,
        cutting: Cutting | None = None,
        split: Split | None = None,
        where: pc.Expression | None = None,
        seed: int = 0,
        transport: TransportName = "fsspec",
    ) -> None:
        """Open a dataset and read its table of samples.

        Args:
            url: where the dataset lies.
            version: a published version's number or tag, None for the newest, or ``"unpublished"`` for all shards
                finished by now.
            transform: is applied to each item, in the process that reads it.
            cutting: crops, augmentation and noise on reading; None gives whole samples, with their source pixels where
                the dataset keeps them.
            split: read only one part of the photographs.
            where: read only samples of which this is true, see :func:`storage.reading.selection.select`.
            seed: of what is drawn.
            transport: how S3 is read, see :func:`storage.objects.transport.open_transport`.

        Raises:
            MissingFileError: there is no dataset, no such version, or no version at all.
            InvalidInputError: the dataset cannot be read as ``cutting`` says, or ``where`` cannot be asked of it.
            IntegrityError: a table is damaged.
            StorageAccessError: the credentials were refused.
            StorageError: the storage refused.
        """
        chosen = choose_version(url, version)
        self.dataset = chosen.dataset
        whole = select(chosen, load_samples(chosen), where)
        self.table: pa.Table = whole if split is None else split.of(whole)
        self.transform = transform
        self._epoch = SharedEpoch()
        self.columns = as_columns([self.table], [self.dataset.recipe.shard_size])
        self._cutting = cutting or Cutting(srgb=self.dataset.recipe.keep_srgb)
        self._cutter = Cutter(self.columns, [self.dataset], self._cutting, seed)
        self._transport: TransportName = transport
        self._handles: _Handles | None = None
        self._annotations: SampleAnnotations | None = None

    @property
    def epoch(self) -> int:
        """The crops and the noise follow from it and the seed."""
        return self._epoch.get()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def set_epoch(self, epoch: int) -> None:
        """Draw anew: call it before each epoch; a DataLoader's workers hear of it, persistent ones too.

        Raises:
            InvalidInputError: the epoch is negative.
        """
        if epoch < 0:
            raise InvalidInputError(f"Epoch is {epoch}; expected 0 or more.")
        self._epoch.set(epoch)

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
        rows = np.array([self._place(item) for item in items], np.int64)
        with refusals(self.dataset.location.url, "read"):
            handles = self._open()
            fetched = handles.frames.fetch(rows, handles.threads)

            def frame(row: int) -> tuple[Frame, Frame | None]:
                return handles.frames.decode(row, fetched)

            # each item by itself, so that none holds the memory of all
            batches = [self._cutter.cut(rows[i : i + 1], (self.epoch,), frame) for i in range(rows.size)]
        samples = [{name: _single(name, value) for name, value in batch.items()} for batch in batches]
        return samples if self.transform is None else [self.transform(sample) for sample in samples]

    def facts(self, item: int) -> dict[str, Any]:
        """Return everything that is known about a sample, source photograph and crop included, by column name.

        Raises:
            IndexError: there is no such sample.
        """
        return self.columns.facts(self._place(item))

    def annotations(self, item: int) -> list[dict[str, Any]] | None:
        """Return the objects in a whole sample, each as :data:`storage.labelling.annotating.ANNOTATION` describes it.

        Boxes and masks are in pixels of the mosaic, twice those of ``raw``; None means that nobody annotated the
        photograph, an empty list that nothing was found in it. Labels are read once, with the first call.

        Raises:
            IndexError: there is no such sample.
            StorageError: the storage refused.
        """
        place = self._place(item)
        if self._annotations is None:
            self._annotations = SampleAnnotations(self.columns, [self.dataset])
        return self._annotations.of(place)

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
                frames=FrameReader(self.columns, [self.dataset], srgb=self._cutting.srgb, transport=self._transport),
                threads=ThreadPoolExecutor(_LOADERS, thread_name_prefix="samples"),
            )
        return self._handles


def _single(name: str, value: Any) -> Any:
    first = value[0]
    if name in _PLAIN:
        return int(first)
    return torch.as_tensor(first) if isinstance(value, np.ndarray) else first
