import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from aura.errors import InvalidInputError, RecipeError
from flows.checks import check
from flows.factory import finished
from flows.reports.report import fetch_report
from storage.datasets.dataset import Dataset, open_dataset
from storage.datasets.history import current_index
from storage.datasets.labels import match_labels, read_labels, write_labels
from storage.datasets.publishing import publish
from storage.datasets.versions import read_version
from storage.labelling.annotating import (
    annotate,
    annotated_samples,
    annotations_of,
    count_categories,
    keep_annotations,
    with_annotations,
)
from storage.labelling.annotations import read_annotations
from storage.labelling.boxes import decode_mask
from storage.reading.exporting import export_coco
from storage.reading.map_style import RawDataset
from storage.recipe import AnnotationSource, load_recipe
from tests.flows.conftest import make_dataset, small_recipe

HEIGHT, WIDTH = 96, 160  # as stored; the camera was held upright, so the photograph is 160 by 96
BOX = (100.0, 8.0, 40.0, 48.0)  # x, y, width, height as stored


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A dataset of one turned photograph with a white rectangle, one plain one and one that nobody annotates."""
    folder = tmp_path_factory.mktemp("annotated")
    corpus = folder / "corpus" / "street"
    corpus.mkdir(parents=True)
    x, y, width, height = map(int, BOX)
    pixels = np.full((HEIGHT, WIDTH, 3), 20, np.uint8)
    pixels[y : y + height, x : x + width] = 240
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(corpus / "turned.png", exif=exif)
    Image.fromarray(pixels[:64, :64] + 9).save(corpus / "empty 1.png")
    Image.fromarray(pixels[:64, 32:128] + 3).save(corpus / "nobody.png")
    recipe = small_recipe(folder / "corpus", lpips_share=0.0, noise="none")
    return open_dataset(make_dataset(recipe, folder / "dataset"))


def coco_file(folder: Path, **changes: Any) -> Path:
    x, y, width, height = BOX
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    box = {"id": 7, "image_id": 1, "category_id": 2, "bbox": list(BOX), "iscrowd": 0, "segmentation": [corners]}
    document = {
        "images": [
            {"id": 1, "file_name": "street/turned.png", "height": HEIGHT, "width": WIDTH},
            {"id": 2, "file_name": "empty 1.png", "height": 64, "width": 64},
            {"id": 3, "file_name": "elsewhere.png", "height": 64, "width": 64},
        ],
        "annotations": [
            box,
            box | {"id": 8, "category_id": 99},
            box | {"id": 9, "bbox": [1, 2, 0, 4]},
            {"id": 10, "image_id": 1},
        ],
        "categories": [{"id": 2, "name": "car"}],
    }
    file = folder / "instances.json"
    file.write_text(json.dumps(document | changes))
    return file


def objects_in(labels: pa.Table) -> dict[str, list[dict[str, Any]]]:
    return annotations_of(labels, labels["sample_id"].to_pylist())


def test_annotations_come_back_in_the_samples_own_pixels(made: Dataset, tmp_path: Path) -> None:
    """Each box must lie on the white rectangle of the stored source pixels, and on its RAW at half the size."""
    found = annotate(made, current_index(made), AnnotationSource(source=str(coco_file(tmp_path)), min_area=0.01))
    assert (found.photographs, set(found.left_out.values())) == (2, {1})
    assert annotated_samples(found.labels) == found.labels.num_rows > found.objects
    assert count_categories(found.labels) == [("car", found.objects, found.objects)]
    assert len(found.left_out) == 4
    version = publish(made, labels=keep_annotations(made, found.labels))
    dataset = RawDataset(made.location, version=version)
    seen = 0
    for item, row in enumerate(dataset.table.to_pylist()):
        objects = dataset.annotations(item)
        name = row["source_uri"].rsplit("/", 1)[-1]
        assert objects is not None or name == "nobody.png"
        assert objects is None or name != "nobody.png"
        if name != "turned.png":
            assert not objects
            continue
        white = (dataset[item]["srgb"][0].numpy() > 0.5)[: row["valid_height_px"], : row["valid_width_px"]]
        if not white.any():
            assert objects == []
            continue
        (each,) = objects
        rows, columns = np.nonzero(white)
        assert (each["category"], each["category_id"], each["annotation_id"]) == ("car", 2, 7)
        assert (each["left_px"], each["top_px"]) == (columns.min(), rows.min())
        assert (each["width_px"], each["height_px"]) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
        assert np.array_equal(decode_mask(each["mask"]), white)
        top, left = int(each["top_px"] // 2) + 1, int(each["left_px"] // 2) + 1
        assert dataset[item]["raw"][1, top, left] > 0.5
        seen += 1
    assert seen > 1
    _exported(made, tmp_path, seen)


def _exported(made: Dataset, tmp_path: Path, seen: int) -> None:
    told = export_coco(made.location, tmp_path / "coco", None, lambda *_: None)
    document = json.loads((tmp_path / "coco" / "instances.json").read_text())
    assert told.annotations == len(document["annotations"]) == seen
    assert document["categories"] == [{"id": 2, "name": "car"}]
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    for each in document["annotations"]:
        assert each["area"] == decode_mask(each["segmentation"]).sum() == each["bbox"][2] * each["bbox"][3]
        assert tuple(each["segmentation"]["size"]) == sizes[each["image_id"]]
    assert sorted({image["annotated"] for image in document["images"]}) == [False, True]


def test_other_labels_and_annotations_keep_each_other(made: Dataset, tmp_path: Path) -> None:
    found = annotate(made, current_index(made), AnnotationSource(source=str(coco_file(tmp_path))))
    publish(made, labels=keep_annotations(made, found.labels))
    name = made.samples(0)["sample_id"][0].as_py()
    (tmp_path / "scenes.csv").write_text(f"sample_id,scene\n{name},street\n")
    import pyarrow.csv  # noqa: PLC0415

    scenes = match_labels(made, pyarrow.csv.read_csv(tmp_path / "scenes.csv"))
    second = publish(made, labels=write_labels(made, with_annotations(made, scenes)))
    third = publish(made, labels=keep_annotations(made, found.labels))
    assert third == second  # the same words again are the same version
    labels = read_labels(made, read_version(made.location, third))
    assert labels is not None
    assert objects_in(labels) == objects_in(found.labels)
    assert {row["scene"] for row in labels.to_pylist() if row["sample_id"] == name} == {"street"}


def test_annotations_that_are_new_or_mended_are_work_to_be_done(made: Dataset, tmp_path: Path) -> None:
    """A finished dataset is not finished for a recipe whose annotations it does not have."""
    plain = made.recipe
    fetch_report(made, publish(made))
    assert finished(check(plain, made.location.url)) is not None
    named = plain.model_copy(update={"annotations": AnnotationSource(source=str(coco_file(tmp_path)), min_area=0.125)})
    assert named.annotations is not None
    assert finished(check(named, made.location.url)) is None
    found = annotate(made, current_index(made), named.annotations)
    fetch_report(made, publish(made, labels=keep_annotations(made, found.labels)))
    assert finished(check(named, made.location.url)) is not None
    coco_file(tmp_path, annotations=[])
    assert finished(check(named, made.location.url)) is None


def test_yolo_boxes_are_shares_of_the_upright_photograph(made: Dataset, tmp_path: Path) -> None:
    labels = tmp_path / "labels" / "street"
    labels.mkdir(parents=True)
    (tmp_path / "labels" / "data.yaml").write_text("names: {0: person, 1: car}\n")
    # upright it is 160 high and 96 wide; the rectangle's stored rows 8..56 are columns 40..88 from the left
    (labels / "turned.txt").write_text("1 0.666667 0.75 0.5 0.25\n1 0.4 0.6 0.9 0.6 0.9 0.9\n7 .1 .1 .1 .1\nwords\n")
    source = AnnotationSource(source=str(tmp_path / "labels"), min_area=0.01)
    coco = annotate(made, current_index(made), AnnotationSource(source=str(coco_file(tmp_path)), min_area=0.01))
    found = annotate(made, current_index(made), source)
    assert found.left_out == {"its class has no name": 1, "its line is not numbers": 1}
    boxes = [[tuple(round(each[name]) for name in ("left_px", "top_px", "width_px", "height_px")) for each in objects
              if each["mask"] is None] for objects in objects_in(found.labels).values()]  # fmt: skip
    wanted = objects_in(coco.labels)
    assert boxes == [
        [(round(each["left_px"]), round(each["top_px"]), round(each["width_px"]), round(each["height_px"]))
         for each in wanted[sample]] for sample in objects_in(found.labels)
    ]  # fmt: skip
    assert any(each["mask"] for objects in objects_in(found.labels).values() for each in objects)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"categories": None}, "is no COCO file"),
        ({"images": [{"id": 1, "file_name": "x/other.png", "height": 1, "width": 1}]}, "such as '.*turned\\.png'"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(
    made: Dataset, tmp_path: Path, document: dict[str, Any], said: str
) -> None:
    file = coco_file(tmp_path, **document)
    with pytest.raises(InvalidInputError, match=said):
        annotate(made, current_index(made), AnnotationSource(source=str(file)))


def test_another_size_is_left_out_and_counted(made: Dataset, tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "turned.png", "height": 48, "width": 80}]
    found = annotate(made, current_index(made), AnnotationSource(source=str(coco_file(tmp_path, images=images))))
    assert found.labels.num_rows == 0
    assert found.left_out["the photograph has another size than the annotations say"] == 1


def test_a_name_that_fits_two_photographs_is_refused(tmp_path: Path) -> None:
    for name, colour in {"a": "red", "b": "blue"}.items():
        (tmp_path / "corpus" / name).mkdir(parents=True)
        Image.new("RGB", (64, 64), colour).save(tmp_path / "corpus" / name / "turned.png")
    dataset = open_dataset(make_dataset(small_recipe(tmp_path / "corpus", lpips_share=0.0), tmp_path / "dataset"))
    images = [{"id": 1, "file_name": "turned.png", "height": 64, "width": 64}]
    with pytest.raises(InvalidInputError, match=r"fits corpus/a/turned\.png and corpus/b/turned\.png"):
        annotate(dataset, current_index(dataset), AnnotationSource(source=str(coco_file(tmp_path, images=images))))


def test_the_annotated_photographs_are_understood_in_both_forms(data_dir: Path) -> None:
    """YOLO's folder was made from the same boxes as COCO's file."""
    folder = data_dir / "srgb" / "coco"
    coco, yolo = read_annotations(folder / "instances.json"), read_annotations(folder / "labels")
    assert len(coco.photographs) == 128
    assert sum(len(each.annotations) for each in coco.photographs) == 898
    by_name = {Path(each.name).stem: each for each in coco.photographs}
    for photograph in yolo.photographs:
        other = by_name[photograph.name]
        assert other.width is not None
        scale = np.array([other.width, other.height, other.width, other.height])
        ours = sorted((each.category_id, *np.multiply(each.box, scale)) for each in photograph.annotations)
        theirs = sorted((each.category_id, *each.box) for each in other.annotations)
        np.testing.assert_allclose(ours, theirs, atol=0.1)


def test_a_recipe_names_its_annotations_and_they_decide_no_byte() -> None:
    plain = load_recipe(None, {"corpus": "/photographs"})
    named = load_recipe(None, {"corpus": "/photographs", "annotations.source": "/photographs/instances.json"})
    assert named.digest == plain.digest
    assert named.annotations == AnnotationSource(source="/photographs/instances.json", min_area=0.25, frame="auto")
    with pytest.raises(RecipeError, match=r"annotations\.min_area"):
        load_recipe(None, {"corpus": "/p", "annotations": {"source": "/a.json", "min_area": 0}})
