import io
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from aura.errors import RejectedImageError
from storage.corpora.photograph import Photograph, decode, probe
from storage.recipe import Limits

LIMITS = Limits()

# upright height and width of what is used; a reason for what is not
EXPECTED: dict[str, tuple[int, int] | str] = {
    "UPPER case name é.JPG": (631, 1024),
    "adobergb_elephants_progressive.jpg": (331, 497),
    "adobergb_eos7d.jpg": (900, 600),
    "all_black.png": (256, 256),
    "all_white.jpg": (256, 256),
    "alpha.webp": (300, 300),
    "animated.gif": (245, 245),
    "animated.webp": (245, 245),
    "apng.png": (64, 128),
    "bad_exif.jpg": (500, 500),
    "bad_icc.jpg": (512, 768),
    "bilevel.png": (512, 768),
    "bomb_65536_uint32.png": "too_many_pixels",
    "broken_header.png": "damaged",
    "broken_stream.png": "damaged",
    "cmyk_flower.jpg": (532, 510),
    "cmyk_icc.jpg": (333, 500),
    "cmyk_noprofile.jpg": (333, 500),
    "crop_orientation.heic": (159, 479),
    "displayp3_iceland.jpg": (400, 600),
    "exif_orient_invalid_9.jpg": (369, 480),
    **{f"exif_orient_landscape_{orientation}.jpg": (1200, 1800) for orientation in range(1, 9)},
    "gray.jpg": (1512, 2268),
    "gray.png": (512, 512),
    "gray_alpha.png": (532, 510),
    "hopper.heif": (128, 128),
    "huge_header.png": "too_many_pixels",
    "icc_big.jpg": (250, 425),
    "jpeg_1x1_exif_xmp.jpg": "too_small",
    "jpeg_named_png.png": (631, 1024),
    "jpeg_recon.jxl": "too_small",
    "mpo_stereo.mpo": (480, 640),
    "noextension": (631, 1024),
    "non_interleaved.jpg": (532, 510),
    "odd_dims_333x221.jpg": (221, 333),
    "one_pixel.png": "too_small",
    "p3_bars.png": (1000, 1000),
    "p3_icc.png": "too_small",
    "palette.png": (72, 72),
    "palette_transparent.png": (170, 256),
    "photo.heic": (960, 1440),
    "photo.jp2": "damaged",
    "photo.jxl": (300, 451),
    "photo_12bit444.avif": (800, 1204),
    "photo_8bit.avif": (800, 1204),
    "png16_gray_alpha.png": (96, 109),
    "png16_gray_photo.png": (256, 384),
    "png16_rgb_acescg_linear.png": (64, 64),
    "png16_rgb_photo.png": (256, 384),
    "png_named_jpg.jpg": (512, 512),
    "progressive_420.jpg": (1512, 2268),
    "q5.jpg": (512, 768),
    "rgba.png": (532, 510),
    "spline.jxl": (2048, 2048),
    "tall.webp": "too_small",
    "text_as_jpg.jpg": "not_an_image",
    "tiff16.tif": (64, 64),
    "trailing_garbage.jpg": (631, 1024),
    "truncated_half.jpg": "truncated",
    "very_wide_4096x3.png": "too_small",
    "xyb_icc.jpg": (442, 290),
    "zero_byte.jpg": "empty_file",
    "zero_width.png": "damaged",
}


@pytest.fixture(scope="session")
def odd(data_dir: Path) -> Callable[[str], bytes]:
    return lambda name: (data_dir / "odd" / name).read_bytes()


def test_the_table_of_expectations_is_complete(data_dir: Path) -> None:
    listed = {item["file"] for item in json.loads((data_dir / "odd" / "index.json").read_text())}
    assert listed == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_every_odd_file_is_used_or_refused_with_a_reason(odd: Callable[[str], bytes], name: str) -> None:
    data, expected = odd(name), EXPECTED[name]
    if isinstance(expected, str):
        assert reason(data) == expected
        return
    facts = probe(data, LIMITS)
    photograph = decode(data, LIMITS)
    assert photograph.facts == facts
    assert (facts.height, facts.width) == expected
    assert photograph.image.shape == (*expected, 3)
    assert photograph.image.dtype == np.uint8


def test_all_orientations_show_the_same_picture(odd: Callable[[str], bytes]) -> None:
    pictures = [decode(odd(f"exif_orient_landscape_{i}.jpg"), LIMITS).image.astype(int) for i in range(1, 9)]
    shrunk = [picture[::20, ::20] for picture in pictures]
    for orientation, picture in enumerate(shrunk[1:], 2):
        assert np.abs(picture - shrunk[0]).mean() < 6, orientation
        assert np.abs(picture[::-1] - shrunk[0]).mean() > 20, orientation


@pytest.mark.parametrize(
    ("name", "colours", "frames"),
    [
        ("displayp3_iceland.jpg", "Display P3", 1),
        ("adobergb_eos7d.jpg", "Adobe RGB (1998)", 1),
        ("xyb_icc.jpg", "XYB_Per", 1),
        ("cmyk_icc.jpg", "U.S. Web Coated (SWOP) v2", 1),
        ("cmyk_noprofile.jpg", "CMYK (no profile)", 1),
        ("bad_icc.jpg", "sRGB (assumed: unreadable ICC profile)", 1),
        ("photo.jxl", "sRGB", 1),
        ("mpo_stereo.mpo", "sRGB (assumed)", 2),
        ("animated.gif", "sRGB (assumed)", 42),
    ],
)
def test_colours_and_frames_are_on_record(odd: Callable[[str], bytes], name: str, colours: str, frames: int) -> None:
    facts = probe(odd(name), LIMITS)
    assert (facts.colours, facts.frames) == (colours, frames)


@pytest.mark.parametrize("name", ["displayp3_iceland.jpg", "adobergb_eos7d.jpg", "xyb_icc.jpg", "cmyk_icc.jpg"])
def test_a_profile_is_converted_as_littlecms_does(odd: Callable[[str], bytes], name: str) -> None:
    image = Image.open(io.BytesIO(odd(name)))
    profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    intent, compensation = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    reference = ImageCms.profileToProfile(
        image, profile, ImageCms.createProfile("sRGB"), intent, outputMode="RGB", flags=compensation
    )
    found = decode(odd(name), LIMITS).image
    assert np.abs(found.astype(int) - np.asarray(reference)).max() <= 1
    assert np.abs(found.astype(int) - np.asarray(image.convert("RGB"))).mean() > 1


def test_a_flower_keeps_its_colours_without_a_cmyk_profile(odd: Callable[[str], bytes]) -> None:
    cmyk, rgb = decode(odd("cmyk_flower.jpg"), LIMITS), decode(odd("non_interleaved.jpg"), LIMITS)
    assert np.abs(cmyk.image.astype(int) - rgb.image).mean() < 4


def test_linear_16_bit_light_is_converted_in_16_bits(odd: Callable[[str], bytes]) -> None:
    data = odd("png16_rgb_acescg_linear.png")
    stored = imagecodecs.png_decode(data).astype(float) / 65535
    # ACEScg (AP1, white D60) to linear BT.709, Bradford-adapted: the usual published matrix
    matrix = [[1.70505, -0.62179, -0.08326], [-0.13026, 1.14080, -0.01055], [-0.02400, -0.12897, 1.15297]]
    linear = np.clip(stored @ np.transpose(matrix), 0, 1)
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(decode(data, LIMITS).image - expected).max() < 1.5


def test_a_16_bit_photograph_is_the_8_bit_one(odd: Callable[[str], bytes]) -> None:
    stored = imagecodecs.png_decode(odd("png16_rgb_photo.png"))
    assert np.abs(decode(odd("png16_rgb_photo.png"), LIMITS).image - stored / 257).max() <= 0.51


def test_transparency_becomes_white(odd: Callable[[str], bytes]) -> None:
    photograph = decode(odd("rgba.png"), LIMITS)
    stored = np.asarray(Image.open(io.BytesIO(odd("rgba.png")))).astype(float)
    cover = stored[..., 3:] / 255
    assert photograph.facts.has_alpha
    assert np.abs(photograph.image - (stored[..., :3] * cover + 255 * (1 - cover))).max() <= 1


def test_a_name_says_nothing(odd: Callable[[str], bytes]) -> None:
    assert probe(odd("png_named_jpg.jpg"), LIMITS).container == "PNG"
    assert probe(odd("jpeg_named_png.png"), LIMITS).container == "JPEG"


# From here on, nothing but pictures made on the spot.


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 5, columns * 3, (rows + columns) * 2], -1).astype(np.uint8)


def saved(image: np.ndarray, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, kind, **options)
    return sink.getvalue()


def reason(data: bytes, limits: Limits = LIMITS) -> str:
    with pytest.raises(RejectedImageError) as caught:
        decode(data, limits)
    assert str(caught.value).endswith((".", "..."))
    assert "object at" not in str(caught.value)
    return caught.value.reason


def tiff16(image: np.ndarray, **options: object) -> bytes:
    sink = io.BytesIO()
    wide = image.astype(np.uint16) * 257
    wide = np.moveaxis(wide, -1, 0) if "planarconfig" in options else wide
    tifffile.imwrite(sink, wide, photometric="rgb", **options)
    return sink.getvalue()


LOSSLESS: dict[str, Callable[[np.ndarray], bytes]] = {
    "png": lambda image: saved(image, "PNG"),
    "bmp": lambda image: saved(image, "BMP"),
    "ppm": lambda image: saved(image, "PPM"),
    "tiff": lambda image: saved(image, "TIFF", compression="tiff_lzw"),
    "tiff16": tiff16,
    "tiff16 planar": lambda image: tiff16(image, planarconfig="separate"),
    "webp": lambda image: saved(image, "WEBP", lossless=True),
    "jpeg2000": lambda image: saved(image, "JPEG2000"),
    "jxl": lambda image: bytes(imagecodecs.jpegxl_encode(image, lossless=True)),
    "jxl in a box": lambda image: bytes(imagecodecs.jpegxl_encode(image, lossless=True, usecontainer=True)),
    "png 16 bits": lambda image: imagecodecs.png_encode(image.astype(np.uint16) * 257),
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_give_the_pixels_back(kind: str) -> None:
    image = picture()
    assert np.array_equal(decode(LOSSLESS[kind](image), LIMITS).image, image)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_cut_file_is_refused(kind: str) -> None:
    data = LOSSLESS[kind](np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8))
    assert reason(data[: len(data) * 2 // 3]) in {"truncated", "damaged"}


@pytest.mark.parametrize("progressive", [False, True])
def test_a_cut_jpeg_is_refused(progressive: bool) -> None:
    data = saved(np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8), "JPEG", progressive=progressive)
    assert reason(data[: len(data) // 2]) == "truncated"
    assert reason(data[:-2]) == "truncated"


def test_a_cut_jpeg_with_an_end_marker_is_not_filled_with_grey() -> None:
    data = saved(np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8), "JPEG")
    assert reason(data[: len(data) // 2] + b"\xff\xd9") == "truncated"


def test_a_grey_picture_is_no_cut_jpeg() -> None:
    grey = np.full((64, 64, 3), 128, np.uint8)
    assert np.array_equal(decode(saved(grey, "JPEG"), LIMITS).image, grey)


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_jpeg_xl_of_more_bits_spans_the_range_and_keeps_its_word_on_linear_light(bits: int) -> None:
    linear = np.round(picture() / 255 * (2**bits - 1)).astype(np.uint16)
    # this encoder calls everything of more than 8 bits linear
    photograph = decode(bytes(imagecodecs.jpegxl_encode(linear, lossless=True, bitspersample=bits)), LIMITS)
    assert np.abs(photograph.image - brightened(picture())).max() < 1.5
    assert photograph.facts.mode == f"RGB;{bits}"
    assert photograph.facts.colours == "code points 1/8, gamma 1"


def brightened(linear: np.ndarray) -> np.ndarray:
    linear = linear / 255
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def png_with(chunk: bytes, content: bytes, image: np.ndarray | None = None) -> bytes:
    data = saved(picture() if image is None else image, "PNG")
    made = struct.pack(">I", len(content)) + chunk + content + struct.pack(">I", zlib.crc32(chunk + content))
    return data[:33] + made + data[33:]


def test_p3_by_code_points_is_p3_by_profile() -> None:
    coded = decode(png_with(b"cICP", bytes([12, 13, 0, 1])), LIMITS)
    profile = bytes(
        imagecodecs.cms_profile(
            "rgb",
            whitepoint=(0.3127, 0.3290),
            primaries=(0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
            transferfunction=np.where(
                (x := np.linspace(0, 1, 4096)) <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4
            ).astype(np.float32),
        )
    )
    embedded = decode(saved(picture(), "PNG", icc_profile=profile), LIMITS)
    assert np.abs(coded.image.astype(int) - embedded.image).max() <= 1
    assert np.abs(coded.image.astype(int) - picture()).max() > 10


def test_a_linear_png_by_gamma_chunk_is_brightened() -> None:
    photograph = decode(png_with(b"gAMA", struct.pack(">I", 100000)), LIMITS)
    assert np.abs(photograph.image - brightened(picture())).max() < 1.5
    assert np.array_equal(decode(png_with(b"gAMA", struct.pack(">I", 45455)), LIMITS).image, picture())


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(
    ("chunk", "content"),
    [(b"gAMA", struct.pack(">I", 100000)), (b"cICP", bytes([1, 8, 0, 1])), (b"cICP", bytes([12, 13, 0, 1]))],
)
def test_chunks_that_speak_of_rgb_hold_for_grey(chunk: bytes, content: bytes, wide: bool) -> None:
    grey = picture()[..., 1]
    one = decode(png_with(chunk, content, grey.astype(np.uint16) * 257 if wide else grey), LIMITS)
    three = decode(png_with(chunk, content, np.repeat(grey[..., None], 3, axis=2)), LIMITS)
    assert np.abs(one.image.astype(int) - three.image).max() <= 1
    assert one.facts.colours == three.facts.colours


def test_a_grey_profile_is_applied_whatever_the_file_calls_its_grey() -> None:
    profile = bytes(imagecodecs.cms_profile("gray", gamma=1.0, whitepoint=(0.3457, 0.3585)))
    grey = np.maximum(picture()[..., 1], 1)
    wide = grey.astype(np.uint16) * 257
    files = [
        saved(grey, "PNG", icc_profile=profile, transparency=0),
        *(tiff(wide, photometric="minisblack", byteorder=order, iccprofile=profile) for order in "<>"),
    ]
    for data in files:
        assert np.abs(decode(data, LIMITS).image - brightened(grey)[..., None]).max() < 1.5


def test_wide_gamut_colours_of_16_bits_are_those_of_8_bits() -> None:
    primaries, white = (0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001), (0.3457, 0.3585)  # ProPhoto RGB
    profile = bytes(imagecodecs.cms_profile("rgb", whitepoint=white, primaries=primaries, gamma=1.8))
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    eight = decode(saved(image, "PNG", icc_profile=profile), LIMITS).image.astype(int)
    sixteen = decode(tiff(image.astype(np.uint16) * 257, iccprofile=profile), LIMITS).image
    assert np.abs(sixteen - eight).max() <= 1


@pytest.mark.parametrize("kind", ["unspecified", "assocalpha", "unassalpha"])
def test_a_fourth_sample_of_16_bits_is_what_the_file_says_as_with_8(kind: str) -> None:
    cover = np.linspace(1, 255, picture().shape[1]).astype(np.uint8)[None, :, None].repeat(picture().shape[0], 0)
    eight = np.concatenate([np.minimum(picture(), cover), cover], axis=2)
    sixteen = eight.astype(np.uint16) * 257
    shown, wide = (decode(tiff(image, extrasamples=[kind]), LIMITS) for image in (eight, sixteen))
    assert np.abs(shown.image.astype(int) - wide.image).max() <= 1
    assert shown.facts.has_alpha == wide.facts.has_alpha == (kind != "unspecified")


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_refused(transfer: int) -> None:
    assert reason(png_with(b"cICP", bytes([9, transfer, 0, 1]))) == "unsupported_colour"


def avif_with_rendition(own: int, other: int) -> bytes:
    """An AVIF file whose second colour property, as of a gain map's HDR rendition, lies before the photograph's own."""
    data = saved(picture(), "AVIF", quality=90)

    def grown(data: bytes, kind: bytes) -> bytes:
        start = data.index(kind) - 4
        return data[:start] + struct.pack(">I", struct.unpack_from(">I", data, start)[0] + 19) + data[start + 4 :]

    place = data.index(b"ipco") + 4
    for kind in (b"meta", b"iprp", b"ipco"):
        data = grown(data, kind)
    colour = struct.pack(">I4s4sHHHB", 19, b"colr", b"nclx", 9, other, 9, 0x80)
    data = data[:place] + colour + data[place:]
    offset = data.index(b"iloc") + 18
    data = data[:offset] + struct.pack(">I", struct.unpack_from(">I", data, offset)[0] + 19) + data[offset + 4 :]
    mine = data.index(b"nclx", place + 19)
    data = data[: mine + 6] + struct.pack(">H", own) + data[mine + 8 :]
    chosen = data.index(b"ipma") + 15
    return data[:chosen] + bytes(index + 1 for index in data[chosen : chosen + 4]) + data[chosen + 4 :]


@pytest.mark.parametrize(("own", "other", "is_taken"), [(13, 16, True), (13, 18, True), (16, 13, False)])
def test_an_avif_is_judged_by_the_colours_of_its_photograph(own: int, other: int, is_taken: bool) -> None:
    data = avif_with_rendition(own, other)
    if not is_taken:
        assert reason(data) == "unsupported_colour"
        return
    expected = decode(saved(picture(), "AVIF", quality=90), LIMITS)
    assert np.array_equal(decode(data, LIMITS).image, expected.image)
    assert decode(data, LIMITS).facts.colours == "sRGB"


@pytest.mark.parametrize("transfer", [16, 18])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_hdr_is_refused_where_a_profile_alone_says_so(kind: str, transfer: int) -> None:
    profile = bytes(imagecodecs.cms_profile("adobergb"))
    count = struct.unpack_from(">I", profile, 128)[0]
    told = b"cicp" + bytes([0, 0, 0, 0, 9, transfer, 0, 1])
    moved = bytearray(profile[132 : 132 + 12 * count])
    for place in range(4, len(moved), 12):
        moved[place : place + 4] = struct.pack(">I", struct.unpack_from(">I", moved, place)[0] + 12)
    length = len(profile) + 12 + len(told)
    entry = struct.pack(">4sII", b"cicp", length - len(told), len(told))
    head = struct.pack(">I", length) + profile[4:128] + struct.pack(">I", count + 1)
    hdr = head + bytes(moved) + entry + profile[132 + 12 * count :] + told
    assert reason(saved(picture(), kind, icc_profile=hdr)) == "unsupported_colour"


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def tiff(image: np.ndarray, orientation: int = 1, extra: Sequence[tuple] = (), **options: object) -> bytes:
    sink = io.BytesIO()
    options = {"photometric": "rgb"} | options
    tifffile.imwrite(sink, image, extratags=[(0x0112, "H", 1, orientation, True), *extra], **options)
    return sink.getvalue()


TURNED: dict[str, Callable[[np.ndarray, int], bytes]] = {
    "png": lambda image, orientation: saved(image, "PNG", exif=exif_of(orientation)),
    "webp": lambda image, orientation: saved(image, "WEBP", lossless=True, exif=exif_of(orientation)),
    "tiff": tiff,
    "tiff, compressed": lambda image, orientation: tiff(image, orientation, compression="zlib"),
    "tiff of 16 bits": lambda image, orientation: tiff(image.astype(np.uint16) * 257, orientation),
}


@pytest.mark.parametrize("kind", TURNED)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright_by_its_exif(kind: str, orientation: int) -> None:
    photograph = decode(TURNED[kind](picture(), orientation), LIMITS)
    upright = Image.fromarray(picture())
    turns = {2: [0], 3: [3], 4: [1], 5: [5], 6: [4], 7: [6], 8: [2]}  # Pillow's transpositions
    for turn in turns.get(orientation, []):
        upright = upright.transpose(Image.Transpose(turn))
    assert np.array_equal(photograph.image, np.asarray(upright))
    assert photograph.facts.orientation == orientation


def test_limits_hold_before_anything_is_decoded() -> None:
    data = saved(picture(100, 200), "PNG")
    assert reason(data, Limits(max_bytes=len(data) - 1)) == "too_many_bytes"
    assert reason(data, Limits(max_pixels=19999)) == "too_many_pixels"
    assert reason(data, Limits(min_side=101)) == "too_small"
    assert decode(data, Limits(max_bytes=len(data), max_pixels=20000, min_side=100)).facts.height == 100
    header_only = data[:60]
    assert reason(header_only, Limits(max_pixels=19999)) == "too_many_pixels"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"%PDF-1.7 something", "unsupported_format"),
        (b"\x76\x2f\x31\x01\x02\0\0\0", "unsupported_format"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "unsupported_format"),
        (b"once upon a time", "not_an_image"),
        (b"\xff\xd8\xff", "damaged"),
        (b"\xff\x0a", "truncated"),
        (b"GIF89a", "damaged"),
    ],
)
def test_other_files_are_told_apart(data: bytes, expected: str) -> None:
    assert reason(data) == expected


def test_float_pixels_and_camera_raw_files_are_refused(data_dir: Path) -> None:
    sink = io.BytesIO()
    tifffile.imwrite(sink, picture().astype(np.float32), photometric="rgb")
    assert reason(sink.getvalue()) in {"unsupported_pixels", "damaged"}
    raws = [path for path in (data_dir / "raw").rglob("*") if path.suffix.lower() in {".dng", ".gpr", ".crw"}]
    assert {reason(path.read_bytes()) for path in raws} == {"unsupported_format"}


@pytest.mark.parametrize(
    ("image", "options", "said"),
    [
        (np.zeros((64, 64, 3), np.uint16), {"bitspersample": 12}, r"12 bits \(rgb\)"),
        (np.zeros((64, 64, 3), np.uint32), {}, "uint32"),
        (np.zeros((64, 64, 3), np.float16), {}, "float16"),
        (np.zeros((64, 64, 3), np.uint16), {"photometric": "cielab"}, "cielab"),
    ],
)
def test_a_whole_tiff_of_other_pixels_is_told_from_a_damaged_one(image: np.ndarray, options: dict, said: str) -> None:
    with pytest.raises(RejectedImageError, match=said) as refused:
        decode(tiff(image, **options), LIMITS)
    assert refused.value.reason == "unsupported_pixels"


@settings(max_examples=150)
@given(
    kind=st.sampled_from(sorted(LOSSLESS)),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=12),
    cut=st.floats(0.02, 1),
)
def test_no_damage_escapes_as_another_error(kind: str, edits: list[tuple[float, int]], cut: float) -> None:
    data = bytearray(LOSSLESS[kind](picture()))
    for position, value in edits:
        data[int(position * (len(data) - 1))] = value
    data = data[: max(1, int(cut * len(data)))]
    try:
        photograph: Photograph | None = decode(bytes(data), Limits(max_pixels=10**6))
    except RejectedImageError:
        photograph = None
    if photograph is not None:
        assert photograph.image.shape[2] == 3


def test_a_jpeg_that_ends_within_its_header_is_refused_in_words() -> None:
    with pytest.raises(RejectedImageError, match=r"begins like JPEG, but its header cannot be read"):
        decode(b"\xff\xd8\xff\xe0", Limits())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(("space", "index", "adobe"), [(0xFFFF, "R03", True), (1, "R98", False), (0xFFFF, None, False)])
def test_a_camera_says_adobe_rgb_by_exif_alone(kind: str, space: int, index: str | None, adobe: bool) -> None:
    """Cameras embed no profile; read as sRGB, its greens would be dull."""
    exif = Image.Exif()
    exif[0x8769] = {0xA001: space} | ({} if index is None else {0xA005: {1: index}})
    pixels = np.zeros((40, 40, 3), np.uint8) + np.array([60, 200, 90], np.uint8)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0}
    found = decode(saved(pixels, kind, exif=exif, **options), LIMITS)
    assert found.facts.colours == ("Adobe RGB (by EXIF)" if adobe else "sRGB (assumed)")
    profile = {"icc_profile": bytes(imagecodecs.cms_profile("adobergb"))} if adobe else {}
    expected = decode(saved(pixels, kind, **profile, **options), LIMITS).image
    assert np.abs(found.image.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_says_adobe_rgb_by_exif_alone(bits: int) -> None:
    numbers = picture() if bits == 8 else picture().astype(np.uint16) * 257
    found = decode(tiff_with_adobe_exif(numbers), LIMITS)
    expected = decode(tiff(numbers, iccprofile=bytes(imagecodecs.cms_profile("adobergb"))), LIMITS).image
    assert found.facts.colours == "Adobe RGB (by EXIF)"
    assert np.abs(found.image.astype(int) - expected).max() <= 1


def tiff_with_adobe_exif(image: np.ndarray) -> bytes:
    """A TIFF file whose Exif directory, behind the pixels, says what a camera says."""
    data = tiff(image, extra=[(65000, "I", 1, 0, True)])  # a place that is renamed, since the writer has no such tag
    data += b"\0" * (len(data) % 2)
    place = data.index(struct.pack("<HHI", 65000, 4, 1))
    start = len(data)
    inner = start + 2 + 2 * 12 + 4
    exif = struct.pack("<HHHII", 2, 0xA001, 3, 1, 0xFFFF) + struct.pack("<HHIII", 0xA005, 4, 1, inner, 0)
    interoperability = struct.pack("<HHHI4sI", 1, 1, 2, 4, b"R03\0", 0)
    pointer = struct.pack("<HHII", 34665, 4, 1, start)
    return data[:place] + pointer + data[place + 12 :] + exif + interoperability


@pytest.mark.parametrize(("chunk", "content"), [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45455))])
def test_a_png_that_says_its_colours_is_not_overruled_by_a_cameras_exif(chunk: bytes, content: bytes) -> None:
    """As PNG's third edition orders them; a converted photograph keeps the EXIF of what it was made from."""
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 0xFFFF, 0xA005: {1: "R03"}}
    data = png_with(chunk, content)
    content = exif.tobytes().removeprefix(b"Exif\0\0")
    body = b"eXIf" + content
    data = data[:33] + struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body)) + data[33:]
    found = decode(data, LIMITS)
    assert np.array_equal(found.image, picture())
    assert found.facts.colours == "sRGB (assumed)"


def jp2(
    image: np.ndarray, *, bits: int = 16, icc: bytes | None = None, space: int | None = None, form: str = "jp2"
) -> bytes:
    """Encode without loss; a profile, or the number of a colour space, goes into the box that names the colours."""
    data = bytes(imagecodecs.jpeg2k_encode(image, level=0, reversible=True, codecformat=form, bitspersample=bits))
    if icc is None and space is None:
        return data
    named = bytes([2, 0, 0]) + icc if icc is not None else bytes([1, 0, 0]) + (space or 0).to_bytes(4, "big")
    start = data.index(b"colr") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    box = (8 + len(named)).to_bytes(4, "big") + b"colr" + named
    header = data.index(b"jp2h") - 4
    whole = (int.from_bytes(data[header : header + 4], "big") + len(box) - length).to_bytes(4, "big")
    return data[:header] + whole + data[header + 4 : start] + box + data[start + length :]


@pytest.mark.parametrize("form", ["jp2", "j2k"])
@pytest.mark.parametrize("bits", [1, 4, 7, 10, 12, 16])
def test_jpeg_2000_of_other_than_8_bits_spans_the_range(bits: int, form: str) -> None:
    top = (1 << bits) - 1
    deep = (picture().astype(np.uint32) * top // 255).astype(np.uint16 if bits > 8 else np.uint8)
    image = np.round(deep * (255 / top)).astype(np.uint8)
    found = decode(jp2(deep, bits=bits, form=form), LIMITS)
    assert found.facts.mode == "RGB;16"
    assert np.abs(found.image.astype(int) - image).max() <= 1
    grey = decode(jp2(deep[..., 0].copy(), bits=bits, form=form), LIMITS)
    assert np.abs(grey.image[..., 0].astype(int) - image[..., 0]).max() <= 1


@pytest.mark.parametrize("depth", [8, 16])
def test_a_profile_in_a_jpeg_2000_is_applied(depth: int) -> None:
    image = picture()
    profile = bytes(imagecodecs.cms_profile("adobergb"))
    numbers = image if depth == 8 else image.astype(np.uint16) * 257
    found = decode(jp2(numbers, bits=depth, icc=profile), LIMITS)
    file = saved(image, "PNG", icc_profile=profile) if depth == 8 else tiff16(image, iccprofile=profile)
    expected = decode(file, LIMITS)
    assert not np.array_equal(expected.image, image)
    assert np.abs(found.image.astype(int) - expected.image).max() <= 1
    assert found.facts.colours == expected.facts.colours


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(("space", "name"), [(14, "CIELab"), (21, "ROMM RGB"), (23, "numbered 23")])
def test_a_jpeg_2000_in_other_colours_is_not_taken_for_srgb(depth: int, space: int, name: str) -> None:
    numbers = picture() if depth == 8 else picture().astype(np.uint16) * 257
    with pytest.raises(RejectedImageError, match=f"{name}.*convert it to sRGB") as refused:
        decode(jp2(numbers, bits=depth, space=space), LIMITS)
    assert refused.value.reason == "unsupported_colour"


def test_ink_in_a_jpeg_2000_is_not_taken_for_alpha(data_dir: Path) -> None:
    with Image.open(data_dir / "odd/cmyk_icc.jpg") as image:
        profile = image.info["icc_profile"]
    inks = np.dstack([picture(), picture()[..., 0]])
    wide = inks.astype(np.uint16) * 257
    for data in (jp2(inks, bits=8, icc=profile), jp2(wide, icc=profile), jp2(wide, space=12)):
        assert reason(data) == "unsupported_colour"
    assert decode(jp2(inks, bits=8, space=12), LIMITS).facts.colours == "CMYK (no profile)"


def test_a_jpeg_2000_whose_channels_differ_in_bits_is_refused() -> None:
    data = bytearray(jp2(picture().astype(np.uint16) * 257))
    siz = data.index(b"\xff\x4f\xff\x51")
    data[siz + 45] = 11  # bits less 1 of the second channel
    assert reason(bytes(data)) == "unsupported_pixels"


def test_a_jpeg_2000_whose_codestream_is_larger_than_its_boxes_say_is_refused_unread() -> None:
    data = bytearray(jp2(picture(), bits=8))
    start = data.index(b"\xff\x4f\xff\x51")
    data[start + 8 : start + 16] = (60_000).to_bytes(4, "big") * 2
    assert reason(bytes(data)) in {"damaged", "too_many_pixels"}


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_grey_that_a_png_calls_transparent_is_white_and_no_other(bits: int) -> None:
    """Of 2 and 4 bits, the key is a number of that many bits, and pixels are shown in 8."""
    levels = 1 << bits
    key = levels - 2 if bits > 1 else 0
    row = np.resize(np.arange(levels), 64)
    packed = np.packbits((row[:, None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).ravel()).tobytes()
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 64, 64, bits, 0, 0, 0, 0)),
        (b"tRNS", struct.pack(">H", key)),
        (b"IDAT", zlib.compress((b"\0" + packed) * 64)),
        (b"IEND", b""),
    )
    body = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    found = decode(b"\x89PNG\r\n\x1a\n" + b"".join(body), LIMITS).image[0, :, 0]
    assert np.array_equal(found, np.where(row == key, 255, row * 255 // (levels - 1)))
