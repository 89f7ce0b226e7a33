"""Annotations of samples, and of the crops that are cut out of them and turned on reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aura.augment import is_transposed
from aura.errors import InvalidInputError
from storage.datasets.dataset import Dataset
from storage.datasets.labels import read_labels
from storage.datasets.versions import read_version
from storage.labelling.annotating import (
    COLUMN,
    annotation_as_row,
    annotation_from_row,
    has_annotations,
    names_of_categories,
)
from storage.labelling.boxes import Cut, cut_annotation, orient_annotation
from storage.reading.sample_columns import SampleColumns


@dataclass(frozen=True, slots=True)
class Window:
    """What became a crop, in pixels of the sample's mosaic.

    Attributes:
        top: of what is read.
        left: likewise.
        height: of what is read, before it is turned.
        width: likewise.
        orientation: how it is turned then, one of the eight of :mod:`aura.augment`.
        trim: rows and columns that are cut off each side after turning.
    """

    top: int
    left: int
    height: int
    width: int
    orientation: int = 0
    trim: tuple[int, int] = (0, 0)

    def kept(self) -> Cut:
        """Return the part of the sample that is left in the crop."""
        rows, columns = self.trim[::-1] if is_transposed(self.orientation) else self.trim
        height, width = self.height - 2 * rows, self.width - 2 * columns
        return Cut(self.top + rows, self.left + columns, height, width, height, width)


def annotations_in_crop(
    annotations: Sequence[Mapping[str, Any]], window: Window, valid: tuple[int, int], min_area: float
) -> list[dict[str, Any]]:
    """Bring a sample's annotations to the frame of a crop, by the rule of :mod:`storage.labelling.boxes`.

    Args:
        annotations: in the sample's frame, each as :data:`storage.labelling.annotating.ANNOTATION` describes it.
        window: the crop.
        valid: height and width of the sample's valid area in pixels.
        min_area: least share, in (0, 1], of a box's area within the photograph or of the crop's that must be left.

    Returns:
        What is left of them in pixels of the crop's mosaic; ``visible_fraction`` is of the box in the photograph.
    """
    cut = window.kept()
    found = []
    for row in annotations:
        piece = cut_annotation(annotation_from_row(row), *valid, cut, min_area)
        if piece is not None:
            turned = orient_annotation(piece, window.orientation, cut.height, cut.width)
            found.append(annotation_as_row(turned))
    return found


class SampleAnnotations:
    """The annotations of the samples of one or several datasets, found by the row of a sample."""

    def __init__(self, columns: SampleColumns, datasets: Sequence[Dataset]) -> None:
        """Read the labels of the datasets' versions.

        Raises:
            MissingFileError: labels are gone.
            IntegrityError: they are damaged.
            StorageError: the storage refused.
        """
        self._starts = columns.starts
        self._source = columns.source
        self._labels = [_annotations_of(dataset) for dataset in datasets]
        self._places = [
            _places(table["sample_id"], labels) for table, labels in zip(columns.tables, self._labels, strict=True)
        ]

    def of(self, row: int) -> list[dict[str, Any]] | None:
        """Return the objects in a sample, or None if nobody annotated its photograph."""
        source = int(self._source[row])
        place = int(self._places[source][row - self._starts[source]])
        labels = self._labels[source]
        if labels is None or place < 0:
            return None
        found: list[dict[str, Any]] | None = labels[COLUMN][place].as_py()
        return found

    def is_annotated(self, source: int) -> bool:
        """Tell whether the version of a source has annotations at all."""
        return self._labels[source] is not None

    def categories(self) -> dict[int, str]:
        """Return the names of all categories that occur, by their numbers, ascending."""
        named: dict[int, str] = {}
        for labels in self._labels:
            named |= names_of_categories(labels)
        return dict(sorted(named.items()))


def require_annotations(columns: SampleColumns, datasets: Sequence[Dataset]) -> SampleAnnotations:
    """Make :class:`SampleAnnotations` of datasets that must all have some.

    Raises:
        InvalidInputError: a dataset's version has no annotations.
        StorageError: the storage refused.
    """
    annotations = SampleAnnotations(columns, datasets)
    for source, dataset in enumerate(datasets):
        if not annotations.is_annotated(source):
            version = "What is unpublished" if dataset.version is None else f"Version {dataset.version}"
            raise InvalidInputError(
                f"{version} of {dataset.location.url} has no annotations; give it some with aura annotate, or read "
                "without annotations."
            )
    return annotations


def _annotations_of(dataset: Dataset) -> pa.Table | None:
    if dataset.version is None:
        return None
    labels = read_labels(dataset, read_version(dataset.location, dataset.version))
    return labels.select(["sample_id", COLUMN]) if has_annotations(labels) else None


def _places(samples: pa.ChunkedArray, labels: pa.Table | None) -> npt.NDArray[np.int64]:
    """Find each sample's row among the labels, -1 for none."""
    if labels is None:
        return np.full(len(samples), -1)
    found = pc.index_in(samples, value_set=labels["sample_id"].combine_chunks())
    places: npt.NDArray[np.int64] = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    return places
