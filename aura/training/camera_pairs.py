"""Photographs and the RAW of one camera, pixel on site: what fine-tuning learns that camera's own ISP from.

Two kinds of folder: RAW files, of which those with the camera's own full-size JPEG, within or beside them, are pairs;
and the published format, an RGB image ``NAME.png`` beside ``NAME.npy`` with packed R, Gr, Gb, B of half its height and
width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from aura.bayer import CfaPattern
from aura.color import camera_to_srgb_matrix
from aura.errors import AuraError, InvalidInputError, MissingFileError
from aura.nets.context import Summary, summarise
from aura.sensor.catalog import load_profile
from aura.training.development import DevelopedPair, developed_pair
from aura.training.pairs import PairBatch
from aura.training.photograph_colours import other_colours
from aura.training.raw_files import RawFile, list_raw_files

log = logging.getLogger(__name__)

_WINDOW: Final = 512
_WINDOWS_A_SIDE: Final = 4
_LARGEST_PHOTOGRAPH: Final = 200_000_000
"""Pixels; a header that says more is refused before anything is decoded."""


class CameraFolder(BaseModel):
    """A folder of one camera's photographs and RAW.

    Attributes:
        folder: RAW files, or ``NAME.png`` beside ``NAME.npy``.
        white_level: of the ``.npy`` files, DN at saturation. They do not say it themselves and there is no usual value,
            so it must be given; RAW files say it and take none.
        black_level: of the ``.npy`` files, DN.
        cfa_pattern: of the ``.npy`` files' mosaic: where R, Gr, Gb, B lay.
        profile: camera whose colour matrix the ``.npy`` files have; None takes them to be in sRGB primaries.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    white_level: float | None = Field(default=None, gt=0)
    black_level: float = Field(default=0.0, ge=0)
    cfa_pattern: CfaPattern = "RGGB"
    profile: str | None = None

    @model_validator(mode="after")
    def _levels_are_ordered(self) -> CameraFolder:
        if self.white_level is not None and self.white_level <= self.black_level:
            raise ValueError(
                f"white_level is {self.white_level:g}, which is not above black_level {self.black_level:g}"
            )
        return self


@dataclass(frozen=True)
class CameraPhotograph:
    """One photograph with its RAW, as windows of it and a summary of the whole.

    Attributes:
        name: the file's stem.
        images: sRGB ``(N, 3, S, S)`` uint8 windows from even offsets.
        raws: packed ``(N, 4, S/2, S/2)`` float16 of the same windows, 0 = black, 1 = saturation, clipped to [0, 1].
        summary: of the whole photograph, batch 1.
        wb_gains: ``(3,)``, green = 1.
        camera_to_srgb: ``(3, 3)``.
        cfa_pattern: of the windows.
    """

    name: str
    images: Tensor
    raws: Tensor
    summary: Summary
    wb_gains: Tensor
    camera_to_srgb: Tensor
    cfa_pattern: CfaPattern


def is_published_format(folder: Path) -> bool:
    """Tell whether a folder holds ``NAME.png`` beside ``NAME.npy``."""
    return any(path.with_suffix(".npy").is_file() for path in folder.glob("*.png"))


def load_camera_photographs(
    source: CameraFolder, on_left_out: Callable[[str, str], None] = lambda name, why: log.warning("%s: %s", name, why)
) -> tuple[CameraPhotograph, ...]:
    """Load the photographs of a camera that have their RAW with them.

    Args:
        source: the folder and what it does not say itself.
        on_left_out: told the name of a file that cannot be used, and why.

    Returns:
        The photographs, sorted by name; none where RAW files carry no usable JPEG.

    Raises:
        MissingFileError: there is no such folder, or neither RAW files nor pairs in it.
        InvalidInputError: pairs without a white level or RAW files with one, or no pair can be read.
    """
    if not source.folder.is_dir():
        raise MissingFileError(f"No folder at {source.folder}; expected RAW files, or NAME.png beside NAME.npy.")
    if not is_published_format(source.folder):
        files = _raw_files(source.folder)
        if source.white_level is not None:
            raise InvalidInputError(
                f"{source.folder} holds RAW files, which say their white level themselves; leave white_level out."
            )
        return _of_raw_files(files, on_left_out)
    if source.white_level is None:
        raise InvalidInputError(
            f"{source.folder} holds .npy files, which do not say their white level; give the DN at saturation "
            "(--white-level: 1023 for 10 bits, 4095 for 12, 16383 for 14, if the sensor uses all of them)."
        )
    return _of_published_pairs(source, source.white_level, on_left_out)


def draw_camera_pairs(photographs: Sequence[CameraPhotograph], batch: int, size: int, seed: Sequence[int]) -> PairBatch:
    """Cut random windows out of photographs, a pure function of its arguments.

    Args:
        photographs: at least one; a batch is of one CFA pattern, that of the first drawn.
        batch: number of pairs.
        size: side in pixels, even; smaller windows are a reason for an error.
        seed: integers, such as (run seed, stage, step).

    Raises:
        InvalidInputError: a photograph is smaller than ``size``.
    """
    rng = np.random.default_rng(list(seed))
    pattern = photographs[int(rng.integers(len(photographs)))].cfa_pattern
    usable = [photograph for photograph in photographs if photograph.cfa_pattern == pattern]
    chosen = [usable[int(index)] for index in rng.integers(len(usable), size=batch)]
    images, raws = [], []
    for photograph in chosen:
        side = photograph.images.shape[-1]
        if side < size:
            raise InvalidInputError(
                f"{photograph.name} has windows of {side} pixels; the stage wants {size}. Choose a smaller size."
            )
        window = int(rng.integers(len(photograph.images)))
        top, left = (2 * int(rng.integers((side - size) // 2 + 1)) for _ in range(2))
        images.append(photograph.images[window, :, top : top + size, left : left + size].float() / 255.0)
        rows, columns = slice(top // 2, (top + size) // 2), slice(left // 2, (left + size) // 2)
        raws.append(photograph.raws[window, :, rows, columns].float())
    return PairBatch(
        image=torch.stack(images),
        raw=torch.stack(raws),
        wb_gains=torch.stack([photograph.wb_gains for photograph in chosen]),
        camera_to_srgb=torch.stack([photograph.camera_to_srgb for photograph in chosen]),
        cfa_pattern=pattern,
        summary=Summary(
            torch.cat([photograph.summary.thumbnail for photograph in chosen]),
            torch.cat([photograph.summary.statistics for photograph in chosen]),
        ),
    )


def _raw_files(folder: Path) -> tuple[RawFile, ...]:
    try:
        return list_raw_files(folder)
    except MissingFileError:
        halves = sorted(path for path in folder.iterdir() if path.suffix in {".png", ".npy"})
        if not halves:
            raise
    other, what = (".npy", "its packed R, Gr, Gb, B") if halves[0].suffix == ".png" else (".png", "its photograph")
    raise MissingFileError(
        f"{folder} holds {halves[0].name}, but not {halves[0].with_suffix(other).name}, {what}. Put NAME.npy beside "
        "each NAME.png, or give a folder of RAW files."
    )


def _of_raw_files(files: Sequence[RawFile], on_left_out: Callable[[str, str], None]) -> tuple[CameraPhotograph, ...]:
    found = []
    for file in files:
        try:
            pair = developed_pair(file.path, file.description, "in_camera")
        except AuraError as error:
            on_left_out(file.path.name, str(error))
            continue
        if isinstance(pair, DevelopedPair):
            frame = pair.frame
            gains, matrix = torch.tensor(frame.wb_gains), torch.from_numpy(frame.camera_to_srgb).float()
            packed = frame.packed().clamp(0.0, 1.0)
            found.append(_windowed(file.path.stem, pair.image, packed, gains, matrix, frame.cfa_pattern))
        else:
            on_left_out(pair.name, f"{pair.reason}; its light is still used, under random ISPs")
    return tuple(sorted(found, key=lambda photograph: photograph.name))


def _of_published_pairs(
    source: CameraFolder, white_level: float, on_left_out: Callable[[str, str], None]
) -> tuple[CameraPhotograph, ...]:
    matrix = torch.eye(3)
    if source.profile is not None:
        matrix = torch.from_numpy(camera_to_srgb_matrix(np.array(load_profile(source.profile).xyz_to_camera))).float()
    found = []
    for path in sorted(source.folder.glob("*.png")):
        try:
            image, packed = _read_published_pair(path, source.black_level, white_level)
        except (OSError, ValueError) as error:
            on_left_out(path.name, str(error))
            continue
        found.append(_windowed(path.stem, image, packed, _grey_world(packed), matrix, source.cfa_pattern))
    if not found:
        raise InvalidInputError(f"No pair in {source.folder} can be read; the log names each and says why.")
    return tuple(found)


def _read_published_pair(path: Path, black_level: float, white_level: float) -> tuple[np.ndarray, Tensor]:
    """Read ``NAME.png`` and ``NAME.npy`` ``(h, w, 4)``: uint8 RGB ``(2h, 2w, 3)`` and packed RAW ``(4, h, w)``."""
    raw_path = path.with_suffix(".npy")
    if not raw_path.is_file():
        raise MissingFileError(f"there is no {raw_path.name} beside it")
    with Image.open(path) as opened:
        if opened.width * opened.height > _LARGEST_PHOTOGRAPH:
            raise InvalidInputError(f"it is {opened.width}x{opened.height} pixels, more than {_LARGEST_PHOTOGRAPH}")
        if opened.mode != "RGB":
            raise InvalidInputError(f"it has the mode {opened.mode}; expected RGB of 8 bits")
        if (colours := other_colours(opened)) is not None:
            raise InvalidInputError(f"it is in {colours}; expected sRGB, so convert it")
        image = np.asarray(opened)
    raw = np.load(raw_path, mmap_mode="r", allow_pickle=False)
    expected = (image.shape[0] // 2, image.shape[1] // 2, 4)
    if raw.shape != expected or image.shape[0] % 2 or image.shape[1] % 2:
        raise InvalidInputError(f"{raw_path.name} has shape {raw.shape}; expected {expected}, R, Gr, Gb, B last")
    if raw.dtype.kind not in "uif":
        raise InvalidInputError(f"{raw_path.name} holds {raw.dtype}; expected digital numbers")
    values = torch.from_numpy(np.array(raw, dtype=np.float32)).permute(2, 0, 1)
    brightest = float(values.max())
    if not bool(torch.isfinite(values).all()) or brightest > 1.01 * white_level:
        raise InvalidInputError(
            f"{raw_path.name} holds {brightest:g}, but the white level is {white_level:g}; correct the white level"
        )
    return image, ((values - black_level) / (white_level - black_level)).clamp(0.0, 1.0)


def _windowed(
    name: str, image: np.ndarray, packed: Tensor, wb_gains: Tensor, camera_to_srgb: Tensor, cfa_pattern: CfaPattern
) -> CameraPhotograph:
    """Keep at most 16 evenly spread windows: an epoch sees no more of a photograph, and 24 megapixels are large."""
    height, width = image.shape[:2]
    side = min(_WINDOW, height // 2 * 2, width // 2 * 2)
    tops, lefts = (_even_starts(length, side) for length in (height, width))
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)
    corners = [(top, left) for top in tops for left in lefts]
    halves = [(slice(top // 2, (top + side) // 2), slice(left // 2, (left + side) // 2)) for top, left in corners]
    return CameraPhotograph(
        name=name,
        images=torch.stack([pixels[:, top : top + side, left : left + side] for top, left in corners]),
        raws=torch.stack([packed[:, rows, columns] for rows, columns in halves]).half(),
        summary=summarise(pixels[None].float() / 255.0),
        wb_gains=wb_gains.float(),
        camera_to_srgb=camera_to_srgb,
        cfa_pattern=cfa_pattern,
    )


def _even_starts(length: int, side: int) -> list[int]:
    count = min(_WINDOWS_A_SIDE, -(-length // side))
    return sorted({int(start) // 2 * 2 for start in np.linspace(0, length - side, count)})


def _grey_world(packed: Tensor) -> Tensor:
    """Gains that make the mean of the sites under 95 % of saturation grey, green 1."""
    exposed = packed < 0.95
    red, green_red, green_blue, blue = (packed * exposed).sum((1, 2)) / exposed.sum((1, 2)).clamp_min(1)
    green = 0.5 * (green_red + green_blue)
    gains = torch.stack([green / red.clamp_min(1e-6), torch.ones(()), green / blue.clamp_min(1e-6)])
    return gains.clamp(0.1, 10.0)
