import hashlib
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.errors import EmptyCorpusError, IntegrityError, MissingFileError, RejectedImageError
from storage.corpora.index import INDEX_SCHEMA
from storage.datasets.plan import (
    PLAN_SCHEMA,
    crops_of,
    plan_shards,
    read_shard_plan,
    write_plan,
)
from storage.datasets.plan import (
    place as place_of,
)
from storage.objects.location import Location
from storage.recipe import Canvas, Recipe, load_recipe

sides = st.integers(1, 700)
multiples_of_16 = st.integers(1, 12).map(lambda number: 16 * number)
canvases = st.builds(
    lambda mode, height, width, share: Canvas(
        mode=mode, height=height, width=width, min_side=max(16, 2 * int(min(height, width) * share / 2))
    ),
    st.sampled_from(["tile", "fit"]),
    multiples_of_16,
    multiples_of_16,
    st.floats(0, 1),
)


def index_of(*sizes: tuple[int, int]) -> pa.Table:
    rows = [
        {
            "uri": f"file:///{number}.png",
            "length_bytes": 10,
            "sha256": hashlib.sha256(bytes([number % 256, number // 256])).hexdigest(),
            "height_px": height,
            "width_px": width,
        }
        for number, (height, width) in enumerate(sizes)
    ]
    return pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)


def planned(index: pa.Table, recipe: Recipe, first_shard: int = 0, made: Collection[str] = ()) -> pa.Table:
    shards = plan_shards([index], recipe, first_shard, made)
    return pa.concat_tables([PLAN_SCHEMA.empty_table(), *shards])


def recipe_of(**changes: Any) -> Recipe:
    return load_recipe(None, {"corpus": "photos", "canvas": {"height": 64, "width": 96}, "shard_size": 3} | changes)


@given(sides, sides, canvases)
def test_crops_are_even_and_inside(height: int, width: int, canvas: Canvas) -> None:
    for crop in crops_of(height, width, canvas):
        assert all(value % 2 == 0 for value in crop)
        assert crop.top + crop.height <= height
        assert crop.left + crop.width <= width
        assert canvas.min_side <= crop.valid_height <= canvas.height
        assert canvas.min_side <= crop.valid_width <= canvas.width


@given(sides, sides, canvases.filter(lambda canvas: canvas.mode == "tile"))
def test_tiles_cover_all_but_slivers_and_never_overlap(height: int, width: int, canvas: Canvas) -> None:
    cover = np.zeros((height, width), int)
    for crop in crops_of(height, width, canvas):
        cover[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width] += 1
    assert cover.max(initial=0) <= 1
    lost = [side - side % 2 for side in (height, width)]
    kept = [
        side - side % canvas_side if side % canvas_side < canvas.min_side else side
        for side, canvas_side in zip(lost, (canvas.height, canvas.width), strict=True)
    ]
    assert cover.sum() == kept[0] * kept[1]
    assert cover[: kept[0], : kept[1]].all()


@given(sides, sides, canvases.filter(lambda canvas: canvas.mode == "fit"))
def test_fit_keeps_the_shape_and_never_enlarges(height: int, width: int, canvas: Canvas) -> None:
    for crop in crops_of(height, width, canvas):
        assert (crop.top, crop.left) == (0, 0)
        assert (crop.height, crop.width) == (height - height % 2, width - width % 2)
        assert crop.valid_height <= crop.height
        assert crop.valid_width <= crop.width
        scale = min(1, canvas.height / crop.height, canvas.width / crop.width)
        assert abs(crop.valid_height - crop.height * scale) <= 2
        assert abs(crop.valid_width - crop.width * scale) <= 2


def test_the_plan_is_numbered_and_cut_into_shards() -> None:
    index = index_of((128, 192), (64, 96))
    plan = planned(index, recipe_of())
    assert plan.equals(pa.concat_tables(plan_shards(index.to_batches(1), recipe_of())))
    assert plan.schema.equals(PLAN_SCHEMA)
    assert plan["index"].to_pylist() == [0, 1, 2, 3, 4]
    assert plan["shard"].to_pylist() == [0, 0, 0, 1, 1]
    assert plan["crop_left_px"].to_pylist() == [0, 96, 0, 96, 0]
    assert plan["crop_top_px"].to_pylist() == [0, 0, 64, 64, 0]
    assert len(set(plan["sample_id"].to_pylist())) == 5


def test_draws_do_not_depend_on_what_else_is_in_the_corpus() -> None:
    recipe = recipe_of(cameras=("a", "b", "c"))
    drawn = ["camera", "iso", "seed", "sample_id"]
    alone = planned(index_of((64, 96), (128, 96)).slice(1), recipe).select(drawn)
    among = planned(index_of((64, 96), (128, 96)), recipe).select(drawn)
    assert among.slice(1).equals(alone)


def test_draws_spread_over_cameras_and_iso() -> None:
    recipe = recipe_of(cameras=("a", "b"), iso=(100, 6400))
    plan = planned(index_of(*[(64, 96)] * 400), recipe)
    cameras = Counter(plan["camera"].to_pylist())
    assert min(cameras["a"], cameras["b"]) > 150
    iso = np.array(plan["iso"])
    assert iso.min() >= 100
    assert iso.max() <= 6400
    stops = np.histogram(np.log2(iso / 100), bins=6, range=(0, 6))[0]
    assert stops.min() > 35
    assert len(np.unique(np.array(plan["seed"]))) == 400
    assert np.array(plan["seed"]).min() >= 0


def test_a_corpus_without_samples_is_refused() -> None:
    with pytest.raises(EmptyCorpusError, match=r"lower canvas\.min_side"):
        planned(index_of((32, 400)), recipe_of())


def test_a_plan_is_read_by_the_shard(place: Location) -> None:
    plan = planned(index_of(*[(64, 96)] * 7), recipe_of())
    shards = list(plan_shards([index_of(*[(64, 96)] * 7)], recipe_of()))
    summary = write_plan(place, shards)
    assert (summary.samples, summary.shards, summary.sources) == (7, 3, 7)
    assert list(summary.objects) == [f"plan/0000000{shard}.parquet" for shard in range(3)]
    read = [read_shard_plan(place, shard) for shard in range(3)]
    assert [table.num_rows for table in read] == [3, 3, 1]
    assert pa.concat_tables(read).equals(plan)
    with pytest.raises(MissingFileError):
        read_shard_plan(place, 3)
    before = {entry.uri: entry.size for entry in place.walk()}
    assert write_plan(place, shards) == summary
    assert {entry.uri: entry.size for entry in place.walk()} == before


def test_a_damaged_plan_is_named(tmp_path: Path) -> None:
    write_plan(tmp_path, plan_shards([index_of((64, 96))], recipe_of()))
    (tmp_path / "plan" / "00000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(IntegrityError, match="not a whole Parquet file"):
        read_shard_plan(tmp_path, 0)


def test_what_is_new_is_planned_from_a_whole_shard_on_and_without_what_is_made() -> None:
    whole = planned(index_of((64, 96), (128, 96)), recipe_of())
    made = set(whole["sample_id"].to_pylist()[:1])
    new = planned(index_of((64, 96), (128, 96)), recipe_of(), first_shard=4, made=made)
    assert new["index"].to_pylist() == [12, 13]
    assert new["shard"].to_pylist() == [4, 4]
    assert new["seed"].to_pylist() == whole["seed"].to_pylist()[1:]
    assert planned(index_of((64, 96)), recipe_of(), 4, made).num_rows == 0


def test_a_tile_is_cut_as_planned() -> None:
    image = np.random.default_rng(0).integers(0, 256, (129, 193, 3), np.uint8)
    plan = planned(index_of((129, 193)), recipe_of()).to_pylist()
    assert np.array_equal(place_of(image, plan[3]), image[64:128, 96:192])


def test_a_fitted_photograph_is_shrunk_without_aliasing() -> None:
    rows, columns = np.mgrid[0:512, 0:768]
    checks = (((rows + columns) % 2) * 255).astype(np.uint8)
    image = np.stack([checks] * 3, -1)
    recipe = recipe_of(canvas={"mode": "fit", "height": 64, "width": 96})
    (row,) = planned(index_of((512, 768)), recipe).to_pylist()
    shrunk = place_of(image, row)
    assert shrunk.shape == (64, 96, 3)
    assert np.abs(shrunk.astype(int) - 127).max() <= 2


def test_a_photograph_of_another_size_is_a_reject() -> None:
    (row,) = planned(index_of((64, 96)), recipe_of()).to_pylist()
    with pytest.raises(RejectedImageError) as caught:
        place_of(np.zeros((64, 98, 3), np.uint8), row)
    assert caught.value.reason == "changed"
