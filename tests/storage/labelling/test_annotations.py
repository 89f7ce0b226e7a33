"""Annotation files of others: what is wrong in them is counted, and none of it reaches pycocotools' C code."""

import json
from pathlib import Path

import numpy as np
import pycocotools.mask
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aura.errors import InvalidInputError
from storage.labelling.annotations import AnnotatedPhotograph, AnnotationSet, match_photographs, read_annotations
from storage.labelling.boxes import Outline

HEIGHT, WIDTH = 48, 64
SIZE = [HEIGHT, WIDTH]
NOT_ITS_SIZE = {"its run lengths are not of the photograph's size": 1}
FAR = {"its polygon lies far outside the photograph": 1}


def read_coco(folder: Path, segmentation: object) -> AnnotationSet:
    document = {
        "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [{"id": 2**64, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 12],
                         "segmentation": segmentation}],
    }  # fmt: skip
    file = folder / "instances.json"
    file.write_text(json.dumps(document))
    return read_annotations(str(file))


def compressed(mask: np.ndarray) -> str:
    return pycocotools.mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode("ascii")


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_compressed_run_lengths_give_their_mask(tmp_path_factory: pytest.TempPathFactory, seed: int, share: float):
    rng = np.random.default_rng(seed)
    mask = (rng.random(SIZE) < share).repeat(rng.integers(1, 9), axis=0)[:HEIGHT]
    found = read_coco(tmp_path_factory.mktemp("coco"), {"size": SIZE, "counts": compressed(mask)})
    outline = found.photographs[0].annotations[0].mask
    assert isinstance(outline, Outline)
    assert np.array_equal(outline.draw(), mask)


@pytest.mark.parametrize(
    ("segmentation", "refused"),
    [
        ({"size": SIZE, "counts": compressed(np.ones((20, 20)))}, NOT_ITS_SIZE),
        ({"size": SIZE, "counts": compressed(np.ones((99, 99)))}, NOT_ITS_SIZE),
        ({"size": SIZE, "counts": "!!€"}, NOT_ITS_SIZE),
        ({"size": SIZE, "counts": "o" * 100_000}, NOT_ITS_SIZE),
        ({"size": SIZE, "counts": [HEIGHT * WIDTH + 9, -9]}, NOT_ITS_SIZE),
        ({"size": [WIDTH, HEIGHT], "counts": [0, HEIGHT * WIDTH]}, NOT_ITS_SIZE),
        ([[-1e9, 1, 1e9, 1, 10, 1e9]], FAR),
        ([[1, 1, 9, 1, 9, 9], [1e20, 1, 9, 1, 9, 9]], FAR),
    ],
)
def test_masks_that_would_end_the_process_are_counted(tmp_path: Path, segmentation: object, refused: dict[str, int]):
    found = read_coco(tmp_path, segmentation)
    assert found.refused == refused
    assert found.photographs[0].annotations == ()


def test_a_polygon_may_leave_the_photograph_a_little_and_a_number_beyond_64_bits_is_no_number(tmp_path: Path):
    found = read_coco(tmp_path, [[-5, -5, 70, -5, 70, 50, -5, 50]])
    (annotation,) = found.photographs[0].annotations
    assert isinstance(annotation.mask, Outline)
    assert annotation.mask.draw().all()
    assert annotation.annotation_id is None


def test_a_far_polygon_of_yolo_is_counted(tmp_path: Path):
    (tmp_path / "classes.txt").write_text("thing\n")
    (tmp_path / "a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n0 0.1 0.1 1e8 0.1 0.5 1e8\n")
    found = read_annotations(str(tmp_path))
    assert found.refused == FAR
    assert len(found.photographs[0].annotations) == 1


IN_TARS = (("s3://b/x-0.tar", "000.jpg", "first"), ("s3://b/x-1.tar", "000.jpg", "second"))


def test_photographs_of_one_name_in_several_tars_are_told_apart_by_the_tar() -> None:
    of_coco = [AnnotatedPhotograph("x-1.tar#000.jpg", ())]
    assert match_photographs(of_coco, IN_TARS, "here") == {"second": of_coco[0]}
    of_yolo = [AnnotatedPhotograph("x-0.tar/000", (), relative=True)]
    assert match_photographs(of_yolo, IN_TARS, "here") == {"first": of_yolo[0]}
    with pytest.raises(InvalidInputError, match=r"fits .*x-0\.tar/000\.jpg and .*x-1\.tar/000\.jpg"):
        match_photographs([AnnotatedPhotograph("000.jpg", ())], IN_TARS, "here")


def test_annotations_of_nothing_are_told_names_that_there_are() -> None:
    with pytest.raises(InvalidInputError, match=r"'001\.jpg', while the corpus has names such as 'x-\d\.tar#000\.jpg'"):
        match_photographs([AnnotatedPhotograph("001.jpg", ())], IN_TARS, "here")
