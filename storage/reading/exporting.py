"""A version's samples in other people's formats: WebDataset tars, and COCO's folder of images beside one JSON file."""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from aura.bayer import unpack
from aura.errors import DatasetConflictError
from aura.isp import render
from aura.sensor.simulate import normalise_raw
from storage.datasets.dataset import Dataset
from storage.datasets.labels import read_labels
from storage.datasets.plan import shard_name
from storage.datasets.versions import read_version
from storage.labelling.annotating import COLUMN
from storage.labelling.boxes import decode_mask
from storage.objects.location import Location, locate
from storage.reading.frames import FrameReader
from storage.reading.sample_columns import ChosenVersion, VersionName, as_columns, choose_version, load_samples

CocoImages = Literal["mosaic", "rendered"]
Progress = Callable[[int, int], None]
"""Called with the samples written and the samples there are."""

_READERS: Final = 4
_COCO_NAME: Final = "instances.json"


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export made.

    Attributes:
        place: where it lies.
        samples: how many samples.
        objects: how many files.
        annotations: how many boxes.
    """

    place: str
    samples: int
    objects: int
    annotations: int = 0


@dataclass(frozen=True, slots=True)
class _Sample:
    raw: npt.NDArray[np.uint16]
    srgb: npt.NDArray[np.uint8] | None
    row: dict[str, Any]

    @property
    def key(self) -> str:
        return f"{self.row['index']:08d}"


def export_webdataset(
    dataset_url: str | Location, target_url: str | Location, version: VersionName, on_progress: Progress
) -> Exported:
    """Write a tar per shard; in it for each sample ``NNNNNNNN.raw.npy``, ``.srgb.npy`` where kept, and ``.json``.

    ``raw.npy`` is uint16 DN ``[4, h, w]`` in R, Gr, Gb, B and ``srgb.npy`` uint8 ``[3, 2h, 2w]``, of the valid area
    alone; ``json`` is the sample's row (:class:`storage.datasets.samples.SampleRow`), with ``labels`` where the version
    has some for it. Equal samples give equal bytes.

    Args:
        dataset_url: the dataset.
        target_url: an empty place.
        version: as :class:`storage.reading.RawDataset` takes it.
        on_progress: is called after each sample.

    Raises:
        MissingFileError: there is no such dataset or version.
        DatasetConflictError: the target is not empty.
        StorageError: a storage refused.
    """
    target = _require_empty(locate(target_url))
    chosen = choose_version(dataset_url, version)
    done, total, written = 0, load_samples(chosen).num_rows, 0
    labels = _labels(chosen.dataset)
    for shard in chosen.shards:
        archive, before = io.BytesIO(), done
        with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in _read(replace(chosen, shards=(shard,)), labels):
                _add(tar, f"{sample.key}.raw.npy", _npy(sample.raw))
                if sample.srgb is not None:
                    _add(tar, f"{sample.key}.srgb.npy", _npy(sample.srgb))
                _add(tar, f"{sample.key}.json", _json(sample.row))
                done += 1
                on_progress(done, total)
        if done > before:
            target.join(shard_name(shard).replace(".parquet", ".tar")).write(archive.getvalue())
            written += 1
    return Exported(target.url, done, written)


def export_coco(
    dataset_url: str | Location,
    target_url: str | Location,
    version: VersionName,
    on_progress: Progress,
    images: CocoImages = "mosaic",
) -> Exported:
    """Write ``images/NNNNNNNN.png`` and ``instances.json`` (https://cocodataset.org/#format-data).

    ``mosaic`` images are 16-bit grey PNG of the Bayer mosaic's DN, ``rendered`` ones 8-bit sRGB by the reference
    renderer (:func:`aura.isp.render`); both of the valid area alone. Each entry of ``images`` also has ``raw``: the
    sample's row, with CFA pattern, levels, noise, source, and ``labels`` where the version has some for it. The
    version's annotations (:mod:`storage.labelling.annotating`) become ``annotations`` in pixels of the image, with
    masks as run-length encodings; a sample of a photograph that nobody annotated says ``"annotated": false``.

    Args:
        dataset_url: the dataset.
        target_url: an empty place.
        version: as :class:`storage.reading.RawDataset` takes it.
        on_progress: is called after each sample.
        images: what the images are.

    Raises:
        MissingFileError: there is no such dataset or version.
        DatasetConflictError: the target is not empty.
        StorageError: a storage refused.
    """
    target = _require_empty(locate(target_url))
    chosen = choose_version(dataset_url, version)
    dataset, total = chosen.dataset, load_samples(chosen).num_rows
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[int, str] = {}
    licences: dict[str, int] = {}
    for sample in _read(chosen, _labels(dataset)):
        name = f"{sample.key}.png"
        target.join("images", name).write(_png(sample, images))
        height, width = 2 * sample.raw.shape[1], 2 * sample.raw.shape[2]
        found = sample.row.get("labels", {}).pop(COLUMN, None)
        categories |= {each["category_id"]: each["category"] for each in found or []}
        own = _coco_objects(sample.row["index"], found or [], first_id=len(annotations) + 1)
        annotations += own
        licence = sample.row.get("source_licence")
        numbered = {} if licence is None else {"license": licences.setdefault(licence, len(licences) + 1)}
        entries.append(
            numbered
            | {
                "id": sample.row["index"],
                "file_name": name,
                "height": height,
                "width": width,
                "annotated": found is not None,
                "raw": sample.row,
            }
        )
        on_progress(len(entries), total)
    document = {
        "info": {
            "description": f"{dataset.location.url}, version {dataset.version}",
            "images": "16-bit Bayer mosaic, DN" if images == "mosaic" else "sRGB by the reference renderer",
        },
        "licenses": [{"id": number, "name": name, "url": ""} for name, number in licences.items()],
        "images": entries,
        "annotations": annotations,
        "categories": [{"id": number, "name": categories[number]} for number in sorted(categories)],
    }
    target.join(_COCO_NAME).write(_json(document))  # last: it says the export is whole
    return Exported(target.url, len(entries), len(entries) + 1, len(annotations))


def _coco_objects(image: int, objects: Sequence[Mapping[str, Any]], first_id: int) -> list[dict[str, Any]]:
    """Write a sample's annotations as COCO does; ids count up, since an object may lie in several samples."""
    written = []
    for number, each in enumerate(objects, first_id):
        box = [each["left_px"], each["top_px"], each["width_px"], each["height_px"]]
        mask = each["mask"]
        entry = {
            "id": number,
            "image_id": image,
            "category_id": each["category_id"],
            "bbox": box,
            "area": box[2] * box[3] if mask is None else float(decode_mask(mask).sum()),
            "iscrowd": int(each["is_crowd"]),
            "visible_fraction": each["visible_fraction"],
            "source_annotation_id": each["annotation_id"],
        }
        written.append(entry if mask is None else entry | {"segmentation": mask})
    return written


def _require_empty(target: Location) -> Location:
    target.check_reachable()
    if names := target.names():
        raise DatasetConflictError(f"{target.url} is not empty (it holds {names[0]}). Choose an empty place.")
    return target


def _labels(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Return the version's labels, if it has any, by sample id."""
    version = None if dataset.version is None else read_version(dataset.location, dataset.version)
    table = None if version is None else read_labels(dataset, version)
    return {} if table is None else {row.pop("sample_id"): row for row in table.to_pylist()}


def _read(chosen: ChosenVersion, labels: Mapping[str, dict[str, Any]]) -> Iterator[_Sample]:
    """Yield the samples of a version, shard by shard."""
    dataset = chosen.dataset
    with ThreadPoolExecutor(_READERS) as pool:
        for shard in chosen.shards:
            columns = as_columns([load_samples(replace(chosen, shards=(shard,)))], [dataset.recipe.shard_size])
            reader = FrameReader(columns, [dataset], srgb=dataset.recipe.keep_srgb)
            fetched = reader.fetch(np.arange(len(columns)), pool)
            for row in range(len(columns)):
                raw, srgb = reader.decode(row, fetched)
                facts = columns.facts(row)
                named = {"labels": labels[facts["sample_id"]]} if facts["sample_id"] in labels else {}
                yield _cut(raw, srgb, facts | named)


def _cut(raw: npt.NDArray[Any], srgb: npt.NDArray[Any] | None, row: dict[str, Any]) -> _Sample:
    height, width = row["valid_height_px"], row["valid_width_px"]
    return _Sample(raw[:, : height // 2, : width // 2], None if srgb is None else srgb[:, :height, :width], row)


def _npy(array: npt.NDArray[Any]) -> bytes:
    target = io.BytesIO()
    np.save(target, np.ascontiguousarray(array), allow_pickle=False)
    return target.getvalue()


def _json(document: Mapping[str, Any]) -> bytes:
    # labels may be of any type that a table has, such as dates, which JSON knows as text only
    return json.dumps(_finite(document), sort_keys=True, default=str, allow_nan=False).encode()


def _finite(value: Any) -> Any:
    """Put null for what JSON has no number for: an infinite PSNR, and labels that are not a number."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)  # without time or owner, so that equal samples give equal bytes
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _png(sample: _Sample, images: CocoImages) -> bytes:
    row, raw = sample.row, torch.from_numpy(sample.raw.astype(np.int32))
    if images == "mosaic":
        picture = Image.fromarray(unpack(raw, row["cfa_pattern"]).numpy().astype(np.uint16))
    else:
        normalised = normalise_raw(raw, row["black_level_dn"], row["white_level_dn"])
        matrix = torch.tensor(row["camera_to_srgb"]).reshape(3, 3)
        rendered = render(normalised, row["cfa_pattern"], torch.tensor(row["wb_gains"]), matrix)
        picture = Image.fromarray((rendered * 255).round().byte().permute(1, 2, 0).numpy())
    target = io.BytesIO()
    picture.save(target, "PNG")
    return target.getvalue()
