"""Boxes and masks of crops against rectangles drawn into RAW, which is cut and turned by what turns any RAW."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from aura.augment import ORIENTATIONS, is_transposed, orient_packed, orient_packed_keeping_cfa, orient_pattern, trim_of
from aura.bayer import CFA_PATTERNS, CfaPattern, pack, unpack
from aura.errors import InvalidInputError
from aura.sensor.catalog import load_profile
from storage.datasets.creation import create_or_open
from storage.datasets.dataset import Dataset
from storage.datasets.labels import write_labels
from storage.datasets.publishing import publish
from storage.datasets.shard import ShardData, write_shard
from storage.labelling.annotating import COLUMN, LABELS, annotation_as_row, annotation_from_row
from storage.labelling.boxes import Annotation
from storage.objects.location import locate
from storage.reading.crop_annotations import SampleAnnotations, Window, annotations_in_crop
from storage.reading.cutting import Cutting
from storage.reading.loading import RawLoader
from storage.reading.map_style import RawDataset
from storage.reading.splits import Split
from storage.reading.streaming import RawStream
from storage.reading.targets import collate, detection_targets
from tests.storage.conftest import CAMERA, sample_row, shard_data, small_recipe

SIDE, INK, SAMPLES = 64, 9000, 8


def painted(height: int, width: int, box: Sequence[int], pattern: CfaPattern) -> np.ndarray:
    """Packed planes of a mosaic with one bright rectangle."""
    left, top, right, bottom = box
    mosaic = torch.zeros(height, width, dtype=torch.int32)
    mosaic[top:bottom, left:right] = INK
    return pack(mosaic, pattern).numpy()


def seen_in(packed: np.ndarray, pattern: CfaPattern) -> np.ndarray:
    return unpack(torch.from_numpy(packed.astype(np.int32).copy()), pattern).numpy() > INK // 2


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@st.composite
def rectangles(draw: st.DrawFn) -> tuple[int, int, tuple[int, int, int, int]]:
    """Even height and width of a sample's valid area, and a rectangle in it."""
    height, width = 2 * draw(st.integers(4, 20)), 2 * draw(st.integers(4, 20))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return height, width, (left, top, draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height)))


@settings(max_examples=150)
@given(st.data(), rectangles(), st.sampled_from(CFA_PATTERNS), st.integers(0, ORIENTATIONS - 1), st.booleans())
def test_a_crop_holds_the_box_and_mask_that_are_seen_in_it(
    data: st.DataObject, sample: Any, pattern: CfaPattern, orientation: int, keep_cfa: bool
) -> None:
    height, width, box = sample
    rows, columns = data.draw(st.integers(2, height // 2)), data.draw(st.integers(2, width // 2))  # in packed pixels
    top, left = data.draw(st.integers(0, height // 2 - rows)), data.draw(st.integers(0, width // 2 - columns))
    min_area, fraction = data.draw(st.sampled_from([0.05, 0.25, 1.0])), data.draw(st.sampled_from([1.0, 0.5]))
    planes = painted(height, width, box, pattern)
    piece = planes[:, top : top + rows, left : left + columns]
    if keep_cfa:
        packed, after = orient_packed_keeping_cfa(piece, pattern, orientation), pattern
    else:
        packed, after = orient_packed(piece, orientation), orient_pattern(pattern, orientation)
    picture = seen_in(packed, after)
    whole = seen_in(planes, pattern)
    stored = annotation_as_row(Annotation("thing", 3, box, whole, annotation_id=5, visible_fraction=fraction))
    window = Window(
        2 * top, 2 * left, 2 * rows, 2 * columns, orientation, trim_of(pattern, orientation) if keep_cfa else (0, 0)
    )
    found = annotations_in_crop([stored], window, (height, width), min_area)
    in_photograph = whole.sum() / fraction
    if not picture.any() or picture.sum() < min_area * min(in_photograph, picture.size):
        assert found == []
        return
    (row,) = found
    cut = annotation_from_row(row)
    assert cut.box == box_of(picture)
    assert np.array_equal(np.asarray(cut.mask), picture)
    assert cut.visible_fraction == pytest.approx(picture.sum() / in_photograph)
    assert (cut.category, cut.category_id, cut.annotation_id) == ("thing", 3, 5)
    (target,) = detection_targets([found])
    half = target["boxes"][0].tolist()  # covers every packed pixel that has any ink, and half a pixel at most beyond
    assert (*map(math.floor, half[:2]), *map(math.ceil, half[2:])) == box_of((packed > INK // 2).any(axis=0))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Samples of every CFA with a bright rectangle each, annotated; of the last photograph nobody knows anything."""
    folder = tmp_path_factory.mktemp("crops")
    recipe = small_recipe(folder, shard_size=4, noise="none", keep_srgb=False)
    made = create_or_open(locate(folder / "dataset"), recipe, "model-1", [load_profile(CAMERA)], SAMPLES)
    labels, drawn = [], np.random.default_rng(1)
    for shard in range(made.shard_count):
        raw, rows = np.zeros((4, 4, SIDE // 2, SIDE // 2), np.uint16), []
        for place, index in enumerate(range(*made.shard_bounds(shard))):
            pattern, valid = CFA_PATTERNS[index % 4], 48 if index in {1, 6} else SIDE
            left, top = drawn.integers(0, 20, 2).tolist()
            box = (left, top, left + 23, top + 17)
            raw[place] = 1000 + painted(SIDE, SIDE, box, pattern)
            rows.append(
                sample_row(
                    index,
                    cfa_pattern=pattern,
                    valid_height_px=valid,
                    black_level_dn=[1000.0] * 4,
                    white_level_dn=[11000.0] * 4,
                    source_sha256=f"{index:x}" * 64,
                )
            )
            mask = np.zeros((valid, SIDE), np.bool_)
            mask[top : top + 17, left : left + 23] = True
            each = annotation_as_row(Annotation("cup", 41, box, mask, annotation_id=index))
            labels.append({"sample_id": f"sample-{index}", COLUMN: None if index == SAMPLES - 1 else [each]})
        write_shard(made, shard, ShardData(raw, None, rows))
    publish(made, labels=write_labels(made, pa.Table.from_pylist(labels, schema=LABELS)))
    return made


@pytest.mark.parametrize("augment", ["keep_cfa", "rename_cfa", "none"])
def test_a_stream_gives_the_boxes_of_its_crops(dataset: Dataset, augment: Any) -> None:
    cutting = Cutting(crop=(20, 24), augment=augment, annotations=True, min_area=0.1)
    stream = RawStream(dataset.location, batch_size=4, cutting=cutting, crops_per_sample=24, seed=2)
    turns, boxes = set(), 0
    for batch in stream:
        for place, objects in enumerate(batch["annotations"]):
            if batch["sample_id"][place] == f"sample-{SAMPLES - 1}":
                assert objects is None
                continue
            picture = unpack(batch["raw"][place], batch["cfa_pattern"][place]).numpy() > 0.4
            if picture.sum() < 0.1 * 17 * 23:
                assert objects == []
                continue
            (each,) = objects
            found = annotation_from_row(each)
            assert found.box == box_of(picture)
            height, width = 2 * batch["valid"][place]
            assert np.array_equal(np.asarray(found.mask), picture[:height, :width])
            assert f"sample-{each['annotation_id']}" == batch["sample_id"][place]
            turns.add(int(batch["orientation"][place]))
            boxes += 1
    assert boxes > 60
    assert turns == (set(range(ORIENTATIONS)) if augment != "none" else {0})


def test_only_the_orientations_that_are_wanted_are_drawn(dataset: Dataset) -> None:
    cutting = Cutting(crop=12, augment="keep_cfa", orientations=(0, 1))
    batches = list(RawStream(dataset.location, cutting=cutting, crops_per_sample=6))
    assert {turn for batch in batches for turn in batch["orientation"].tolist()} == {0, 1}
    assert not any(is_transposed(turn) for turn in (0, 1))
    with pytest.raises(InvalidInputError, match="expected some of 0 to 7"):
        Cutting(crop=8, augment="keep_cfa", orientations=(8,))
    with pytest.raises(InvalidInputError, match="expected a share above 0"):
        Cutting(min_area=0.0)


def test_batches_of_items_and_of_a_worker_hold_the_same(dataset: Dataset) -> None:
    items = RawDataset(dataset.location, cutting=Cutting(annotations=True))
    (batch,) = DataLoader(items, batch_size=SAMPLES, collate_fn=collate)  # type: ignore[arg-type]
    assert batch["annotations"] == [items.annotations(item) for item in range(SAMPLES)]
    stream = RawStream(dataset.location, batch_size=SAMPLES, cutting=Cutting(annotations=True), shuffle=False)
    (streamed,) = RawLoader(stream, num_workers=0)
    assert streamed["annotations"] == batch["annotations"]
    assert SampleAnnotations(items.columns, [items.dataset]).categories() == {41: "cup"}


def test_targets_are_boxes_of_the_packed_planes(dataset: Dataset) -> None:
    items = RawDataset(dataset.location, cutting=Cutting(annotations=True))
    batch = [items[item] for item in range(SAMPLES - 1)]
    for item, target in zip(batch, detection_targets([item["annotations"] for item in batch], {41: 0}), strict=True):
        rows, columns = np.nonzero(item["raw"].numpy().max(axis=0) > 0.4)
        inside = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)  # of planes that have any ink
        assert np.abs(target["boxes"].numpy()[0] - inside).max() <= 0.5
        assert target["labels"].tolist() == [0]
        assert target["is_crowd"].tolist() == [False]
    (empty,) = detection_targets([batch[0]["annotations"]], {7: 0})
    assert empty["boxes"].shape == (0, 4)
    with pytest.raises(InvalidInputError, match="nobody annotated"):
        detection_targets([items[SAMPLES - 1]["annotations"]])


def test_boxes_of_what_has_none_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    plain = create_or_open(locate(tmp_path / "plain"), small_recipe(tmp_path), "m", [load_profile(CAMERA)], 5)
    write_shard(plain, 0, shard_data(plain, 0))
    publish(plain)
    with pytest.raises(InvalidInputError, match=r"Version 1 of .* has no annotations"):
        RawStream(plain.location, cutting=Cutting(annotations=True))
    with pytest.raises(InvalidInputError, match="What is unpublished"):
        RawStream(dataset.location, version="unpublished", cutting=Cutting(annotations=True))


def test_a_split_is_by_photograph(dataset: Dataset) -> None:
    parts = [RawDataset(dataset.location, split=Split(part, share=0.5)) for part in ("train", "held_out")]
    train, held_out = ({row["source_sha256"] for row in part.table.to_pylist()} for part in parts)
    assert train | held_out == {f"{index:x}" * 64 for index in range(SAMPLES)}
    assert not train & held_out
    assert min(len(train), len(held_out)) > 0
    names = [
        name for batch in RawStream(dataset.location, split=Split("train", share=0.5)) for name in batch["sample_id"]
    ]
    assert sorted(names) == sorted(parts[0].table["sample_id"].to_pylist())
    others = {
        frozenset(RawDataset(dataset.location, split=Split("train", 0.5, seed)).table["sample_id"].to_pylist())
        for seed in range(4)
    }
    assert len(others) > 1
    for wrong, said in (({"part": "test"}, "expected 'train'"), ({"part": "train", "share": 1.0}, "between 0 and 1")):
        with pytest.raises(InvalidInputError, match=said):
            Split(**wrong)  # type: ignore[arg-type]
