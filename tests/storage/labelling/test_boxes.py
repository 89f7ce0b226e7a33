"""Boxes and masks against a reference that knows no geometry: rectangles drawn into pictures and looked for again."""

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from storage.corpora.photograph import decode
from storage.datasets.plan import Crop, crops_of, place
from storage.labelling.boxes import (
    Annotation,
    Box,
    Cut,
    Outline,
    cut_annotation,
    decode_mask,
    encode_mask,
    upright,
    upright_box,
)
from storage.recipe import Canvas, Limits

INK = 255


@st.composite
def drawn(draw: st.DrawFn) -> tuple[int, int, Box]:
    """Height and width of a photograph, and a rectangle within it."""
    height, width = draw(st.integers(33, 90)), draw(st.integers(33, 90))
    left, top = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return height, width, (left, top, draw(st.integers(left + 1, width)), draw(st.integers(top + 1, height)))


def photograph_of(height: int, width: int, box: Box, orientation: int) -> Any:
    """Draw the rectangle into a file with an EXIF orientation, and decode that as any photograph of a corpus."""
    left, top, right, bottom = map(int, box)
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[top:bottom, left:right] = INK
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    return decode(file.getvalue(), Limits(min_side=16)).image


def piece_of(image: Any, crop: Crop) -> Any:
    """Cut a sample's source out, as the factory does."""
    names = ("crop_top_px", "crop_left_px", "crop_height_px", "crop_width_px", "valid_height_px", "valid_width_px")
    row = dict(zip(names, crop, strict=True)) | {
        "source_height_px": image.shape[0],
        "source_width_px": image.shape[1],
        "source_uri": "drawn",
    }
    return place(image, row)[..., 0]


def found_in(picture: Any) -> Box | None:
    rows, columns = np.nonzero(picture)
    return (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if rows.size else None


@settings(max_examples=60)
@given(drawn(), st.integers(1, 8), st.sampled_from([0.05, 0.25, 0.5, 1.0]))
def test_a_tile_holds_the_box_that_is_seen_in_it(
    photograph: tuple[int, int, Box], orientation: int, min_area: float
) -> None:
    height, width, box = photograph
    image = photograph_of(height, width, box, orientation)
    corners = (box[0], box[1], box[2], box[1], box[2], box[3], box[0], box[3])
    mask = Outline(height, width, (corners,))
    turned = upright(Annotation("thing", 3, box, mask), orientation, height, width)
    assert turned.box == found_in(image[..., 0])
    total = (image[..., 0] > 0).sum()
    for crop in crops_of(*image.shape[:2], Canvas(height=32, width=32, min_side=16)):
        picture = piece_of(image, crop) > 0
        cut = cut_annotation(turned, *image.shape[:2], Cut(*crop), min_area)
        if picture.sum() == 0 or (picture.sum() < min_area * total and picture.mean() < min_area):
            assert cut is None
            continue
        assert cut is not None
        assert cut.box == found_in(picture)
        assert cut.visible_fraction == pytest.approx(picture.sum() / total)
        assert np.array_equal(cut.mask, picture)
        assert np.array_equal(decode_mask(encode_mask(np.asarray(cut.mask))), picture)
        packed = np.asarray(cut.box) / 2  # planes have half the size
        assert (packed <= [*picture.shape[::-1], *picture.shape[::-1]]).all()


@settings(max_examples=30)
@given(drawn(), st.integers(1, 8))
def test_a_shrunk_photograph_holds_the_box_where_half_of_the_ink_is(
    photograph: tuple[int, int, Box], orientation: int
) -> None:
    height, width, box = photograph
    image = photograph_of(height, width, box, orientation)
    turned = upright(Annotation("thing", 3, box), orientation, height, width)
    crops = crops_of(*image.shape[:2], Canvas(mode="fit", height=32, width=32, min_side=16))
    for crop in crops:
        cut = cut_annotation(turned, *image.shape[:2], Cut(*crop), 0.25)
        seen = found_in(piece_of(image, crop) > INK / 2)
        if cut is None or seen is None or min(np.subtract(cut.box[2:], cut.box[:2])) < 2:
            continue  # on the odd last row, or so thin that half of no pixel is ink
        assert np.abs(np.subtract(cut.box, seen)).max() <= 1.0
        assert max(cut.box[2] / crop.valid_width, cut.box[3] / crop.valid_height) <= 1.0


@settings(max_examples=30)
@given(drawn(), st.sampled_from([2, 3, 4]))
def test_a_shrunk_mask_holds_a_pixel_where_half_of_it_was_the_objects(
    photograph: tuple[int, int, Box], factor: int
) -> None:
    height, width, box = photograph
    rows, columns = height // factor, width // factor
    whole = np.zeros((rows * factor, columns * factor), np.bool_)
    left, top, right, bottom = map(int, box)
    whole[top:bottom, left:right] = True
    cut = Cut(0, 0, *whole.shape, rows, columns)
    found = cut_annotation(Annotation("thing", 3, box, whole), *whole.shape, cut, 0.01)
    share = whole.reshape(rows, factor, columns, factor).mean(axis=(1, 3))
    expected = share >= 0.5
    if not expected.any():
        assert found is None
    elif found is not None:  # or its box is less than a hundredth of what is left
        assert np.array_equal(found.mask, expected)


def test_an_orientation_and_back_is_the_same_box() -> None:
    box = (1.5, 2.0, 7.25, 30.0)
    back = {6: 8, 8: 6}
    for orientation in range(1, 9):
        height, width = (40, 60) if orientation < 5 else (60, 40)
        turned = upright_box(box, orientation, 40, 60)
        assert upright_box(turned, back.get(orientation, orientation), height, width) == box


def test_a_box_that_overhangs_its_photograph_is_measured_within_it() -> None:
    box, whole = Annotation("thing", 0, (-10.0, 0.0, 10.0, 10.0)), Cut(0, 0, 32, 32, 32, 32)
    cut = cut_annotation(box, 32, 32, whole, 1.0)
    assert cut is not None
    assert (cut.box, cut.visible_fraction) == ((0, 0, 10, 10), 1.0)
    assert cut_annotation(Annotation("thing", 0, (-10.0, 0.0, -1.0, 10.0)), 32, 32, whole, 0.1) is None


def test_an_object_none_of_whose_mask_is_left_is_dropped() -> None:
    ell = np.zeros((32, 32), np.bool_)
    ell[:, :2] = ell[30:] = True
    corner = Cut(0, 16, 16, 16, 16, 16)
    assert cut_annotation(Annotation("ell", 0, (0, 0, 32, 32), ell), 32, 32, corner, 0.2) is None
    assert cut_annotation(Annotation("ell", 0, (0, 0, 32, 32)), 32, 32, corner, 0.2) is not None
