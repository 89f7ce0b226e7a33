"""Annotations of photographs as labels of the samples that were cut out of them.

They are labels, not columns of the samples: no pixel follows from them, people mend them after the fact, and a version
with mended ones must not rewrite a shard. So they lie in the table of labels that versions name by its digest (see
:mod:`storage.datasets.labels`), in one column, ``annotations``. A sample without a row, or with null there, is of a
photograph that nobody annotated; an empty list means that nothing was found in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final, TypeGuard

import pyarrow as pa
import pyarrow.compute as pc

from storage.datasets.dataset import Dataset
from storage.datasets.labels import labels_digest, read_labels, write_labels
from storage.datasets.versions import list_versions, read_version
from storage.labelling.annotations import AnnotatedPhotograph, match_photographs, read_annotations
from storage.labelling.boxes import Annotation, Cut, Outline, cut_annotation, decode_mask, encode_mask, upright
from storage.recipe import AnnotationSource

COLUMN: Final = "annotations"
ANNOTATION: Final = pa.struct(
    [
        pa.field("category", pa.string(), nullable=False),
        pa.field("category_id", pa.int32(), nullable=False),
        pa.field("left_px", pa.float32(), nullable=False),
        pa.field("top_px", pa.float32(), nullable=False),
        pa.field("width_px", pa.float32(), nullable=False),
        pa.field("height_px", pa.float32(), nullable=False),
        pa.field("visible_fraction", pa.float32(), nullable=False),
        pa.field("is_crowd", pa.bool_(), nullable=False),
        pa.field("annotation_id", pa.int64()),
        pa.field(
            "mask",
            pa.struct([pa.field("size", pa.list_(pa.field("element", pa.int32()))), pa.field("counts", pa.string())]),
        ),
    ]
)
"""An object in a sample. Pixels are of the sample's mosaic (twice the packed planes'); ``visible_fraction`` is the
share of the box within its photograph that lies in the sample; ``mask`` is COCO's run-length encoding, of the valid
area."""

_ANNOTATIONS: Final = pa.list_(pa.field("element", ANNOTATION))  # named as Parquet gives it back: the same bytes again
LABELS: Final = pa.schema([pa.field("sample_id", pa.string()), pa.field(COLUMN, _ANNOTATIONS)])

_LOADERS: Final = 16
_TRANSPOSED: Final = frozenset({5, 6, 7, 8})


@dataclass(frozen=True, slots=True)
class Annotated:
    """What annotating came to.

    Attributes:
        labels: a table with :data:`LABELS`, a row per sample of an annotated photograph, sorted.
        photographs: annotated photographs that the dataset has samples of.
        objects: objects in all samples.
        left_out: what could not be used, by reason.
    """

    labels: pa.Table
    photographs: int
    objects: int
    left_out: Mapping[str, int]


def annotate(dataset: Dataset, index: pa.Table, source: AnnotationSource) -> Annotated:
    """Bring the annotations of a corpus to the frames of the samples.

    Args:
        dataset: whose committed samples are labelled.
        index: of its corpus.
        source: where the annotations lie, and how they are cut.

    Raises:
        MissingFileError: there are no annotations.
        InvalidInputError: they are in no known form, or do not fit the corpus.
        StorageError: the storage refused.
    """
    found = read_annotations(source.source)
    names = zip(*(index[name].to_pylist() for name in ("uri", "member", "sha256")), strict=True)
    by_digest = match_photographs(found.photographs, (name for name in names if name[2] is not None), found.url)
    headers = _headers(index, by_digest)
    left_out = Counter(found.refused)
    left_out["the photograph is not in the corpus"] = len(found.photographs) - len(
        {photograph.name for photograph in by_digest.values()}
    )
    tables: list[pa.Table] = []
    photographs = objects = 0
    for digest, samples in groupby(_samples(dataset), key=lambda row: str(row["source_sha256"])):
        if digest not in by_digest:
            continue
        try:
            found_here = _upright(by_digest[digest], headers[digest], source.frame)
        except _SizeDiffersError:
            left_out["the photograph has another size than the annotations say"] += 1
            continue
        photographs += 1
        rows = [_labels_of(row, found_here, headers[digest], source.min_area) for row in samples]
        objects += sum(len(row[COLUMN]) for row in rows)
        tables.append(pa.Table.from_pylist(rows, schema=LABELS))  # a tenth of the memory that rows take
    labels = pa.concat_tables([LABELS.empty_table(), *tables]).combine_chunks()
    labels = labels.take(pc.sort_indices(labels["sample_id"]))
    return Annotated(labels, photographs, objects, dict(+left_out))


def keep_annotations(dataset: Dataset, labels: pa.Table) -> str:
    """Store annotations beside the latest version's other labels; gives the digest to publish with."""
    return write_labels(dataset, _beside_latest(dataset, labels))


def are_kept(dataset: Dataset, index: pa.Table, source: AnnotationSource) -> bool:
    """Tell whether the latest version has the annotations as they are now.

    Raises:
        AuraError: as :func:`annotate`.
    """
    numbers = list_versions(dataset.location)
    labels = _beside_latest(dataset, annotate(dataset, index, source).labels)
    return bool(numbers) and read_version(dataset.location, max(numbers)).labels == labels_digest(labels)


def with_annotations(dataset: Dataset, labels: pa.Table) -> pa.Table:
    """Put the latest version's annotations beside other labels, unless these hold some themselves."""
    latest = _latest_labels(dataset)
    if latest is None or COLUMN not in latest.column_names or COLUMN in labels.column_names:
        return labels
    return _beside(labels, latest.select(["sample_id", COLUMN]))


def annotations_of(labels: pa.Table | None, samples: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the objects in some samples, by sample id, of a version's labels; unannotated samples are left out."""
    if not has_annotations(labels):
        return {}
    wanted = pc.is_in(labels["sample_id"], pa.array(samples, pa.string()))
    found = labels.select(["sample_id", COLUMN]).filter(pc.and_(wanted, pc.is_valid(labels[COLUMN])))
    return dict(zip(found["sample_id"].to_pylist(), found[COLUMN].to_pylist(), strict=True))


def annotated_samples(labels: pa.Table | None) -> int:
    """Count the samples of annotated photographs in a version's labels."""
    return labels.num_rows - labels[COLUMN].null_count if has_annotations(labels) else 0


def has_annotations(labels: pa.Table | None) -> TypeGuard[pa.Table]:
    """Tell whether a version's labels hold annotations."""
    return labels is not None and COLUMN in labels.column_names and labels.schema.field(COLUMN).type == _ANNOTATIONS


def names_of_categories(labels: pa.Table | None) -> dict[int, str]:
    """Return the names of the categories that occur, by number."""
    if not has_annotations(labels):
        return {}
    objects = pc.list_flatten(labels[COLUMN].combine_chunks())
    numbers, names = (pc.struct_field(objects, name) for name in ("category_id", "category"))
    pairs = pa.table({"number": numbers, "name": names}).group_by(["number", "name"]).aggregate([])
    return dict(zip(pairs["number"].to_pylist(), pairs["name"].to_pylist(), strict=True))


def count_categories(labels: pa.Table | None) -> list[tuple[str, int, int]]:
    """Count the objects of each category, and the samples that show one; most frequent first."""
    if not has_annotations(labels):
        return []
    lists = labels[COLUMN].combine_chunks()
    names = pc.struct_field(pc.list_flatten(lists), "category")
    shown = pa.table({"category": names, "sample": pc.list_parent_indices(lists)})
    counts = shown.group_by("category").aggregate([("sample", "count"), ("sample", "count_distinct")])
    columns = ("category", "sample_count", "sample_count_distinct")
    rows = zip(*(counts[name].to_pylist() for name in columns), strict=True)
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def annotation_as_row(annotation: Annotation) -> dict[str, Any]:
    """Write an annotation as :data:`ANNOTATION` has it; a mask must be drawn."""
    left, top, right, bottom = annotation.box
    mask = annotation.mask
    return {
        "category": annotation.category,
        "category_id": annotation.category_id,
        "left_px": left,
        "top_px": top,
        "width_px": right - left,
        "height_px": bottom - top,
        "visible_fraction": annotation.visible_fraction,
        "is_crowd": annotation.is_crowd,
        "annotation_id": annotation.annotation_id,
        "mask": None if mask is None or isinstance(mask, Outline) else encode_mask(mask),
    }


def annotation_from_row(row: Mapping[str, Any]) -> Annotation:
    """Read what :func:`annotation_as_row` wrote, its mask drawn."""
    left, top = row["left_px"], row["top_px"]
    return Annotation(
        category=row["category"],
        category_id=row["category_id"],
        box=(left, top, left + row["width_px"], top + row["height_px"]),
        mask=None if row["mask"] is None else decode_mask(row["mask"]),
        is_crowd=row["is_crowd"],
        annotation_id=row["annotation_id"],
        visible_fraction=row["visible_fraction"],
    )


def _beside_latest(dataset: Dataset, labels: pa.Table) -> pa.Table:
    latest = _latest_labels(dataset)
    return labels if latest is None else _beside(latest, labels)


def _latest_labels(dataset: Dataset) -> pa.Table | None:
    numbers = list_versions(dataset.location)
    return read_labels(dataset, read_version(dataset.location, max(numbers))) if numbers else None


class _SizeDiffersError(Exception):
    """Annotations are of another picture than the photograph."""


def _headers(index: pa.Table, digests: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Look up sizes and orientations of photographs by SHA-256."""
    known = pc.and_(pc.is_valid(index["height_px"]), pc.is_in(index["sha256"], pa.array(list(digests), pa.string())))
    columns = ["sha256", "height_px", "width_px", "orientation"]
    return {row["sha256"]: row for row in index.select(columns).filter(known).to_pylist()}


def _samples(dataset: Dataset) -> Iterator[dict[str, Any]]:
    columns = ["sample_id", "source_sha256", "crop_top_px", "crop_left_px", "crop_height_px", "crop_width_px",
               "valid_height_px", "valid_width_px"]  # fmt: skip
    with ThreadPoolExecutor(_LOADERS) as pool:
        for table in pool.map(dataset.samples, dataset.committed_shards()):
            yield from table.select(columns).to_pylist()


def _upright(photograph: AnnotatedPhotograph, header: Mapping[str, Any], frame: str) -> list[Annotation]:
    """Bring a photograph's annotations to the upright frame, in pixels.

    ``auto`` goes by the size that the annotations name; where that fits both frames, or none is named, they are taken
    for upright, which is how browsers and annotation tools show photographs.
    """
    height, width, orientation = header["height_px"], header["width_px"], header["orientation"] or 1
    sizes = {"upright": (height, width), "stored": (width, height) if orientation in _TRANSPOSED else (height, width)}
    named = None if photograph.height is None else (photograph.height, photograph.width)
    fitting = [name for name, size in sizes.items() if named in {None, size} and frame in {"auto", name}]
    if not fitting:
        raise _SizeDiffersError
    stored = fitting[0] == "stored"
    size = sizes[fitting[0]]
    objects: Iterable[Annotation] = photograph.annotations
    if photograph.relative:
        objects = (_in_pixels(each, *size) for each in objects)
    return [upright(each, orientation if stored else 1, *size) for each in objects]


def _in_pixels(annotation: Annotation, height: int, width: int) -> Annotation:
    left, top, right, bottom = annotation.box
    mask = annotation.mask
    if isinstance(mask, Outline):
        scale = (width, height)
        parts = tuple(tuple(value * scale[at % 2] for at, value in enumerate(part)) for part in mask.polygons)
        mask = Outline(height, width, parts)
    return replace(annotation, box=(left * width, top * height, right * width, bottom * height), mask=mask)


def _labels_of(
    row: Mapping[str, Any], objects: Iterable[Annotation], header: Mapping[str, Any], min_area: float
) -> dict[str, Any]:
    cut = Cut(
        row["crop_top_px"], row["crop_left_px"], row["crop_height_px"], row["crop_width_px"],
        row["valid_height_px"], row["valid_width_px"],
    )  # fmt: skip
    pieces = (cut_annotation(each, header["height_px"], header["width_px"], cut, min_area) for each in objects)
    return {"sample_id": row["sample_id"], COLUMN: [annotation_as_row(piece) for piece in pieces if piece is not None]}


def _beside(older: pa.Table, annotations: pa.Table) -> pa.Table:
    """Replace the annotations of a table of labels, and keep its other columns."""
    others = [name for name in older.column_names if name not in {"sample_id", COLUMN}]
    if not others:
        return annotations
    samples = sorted({*older["sample_id"].to_pylist(), *annotations["sample_id"].to_pylist()})
    columns = [pa.array(samples, pa.string())]
    for table, names in ((older, others), (annotations, [COLUMN])):
        rows = {sample: row for row, sample in enumerate(table["sample_id"].to_pylist())}
        places = pa.array([rows.get(sample) for sample in samples], pa.int64())
        columns += [table[name].combine_chunks().take(places) for name in names]
    return pa.table(columns, names=["sample_id", *others, COLUMN])
