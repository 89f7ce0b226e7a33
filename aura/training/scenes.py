"""Scene-linear light to train on: HDR photographs, real RAW files, and sRGB photographs taken back to linear.

A scene is canonical linear RGB (BT.709, grey is grey, 1.0 = saturation where the source had one). Views of it are
cut, scaled and exposed at random, deterministically by a numpy generator.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

import imagecodecs
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from aura.bayer import half_size_rgb, pack
from aura.color import apply_matrix, camera_to_srgb_matrix, luminance, srgb_to_linear
from aura.errors import AuraError, InvalidInputError, MissingFileError
from aura.training.raw_files import RawFrame, list_raw_files, read_manifest, read_raw
from aura.unprocess import upi

log = logging.getLogger(__name__)

SceneKind = Literal["hdr", "raw", "srgb"]
_MAX_SIDE: Final = 1600
_PANORAMA_RATIO: Final = 2.0
_HELD_OUT_SHARE: Final = 8
_PROTECTED_SHARE: Final = 0.75
"""Of HDR views: cameras meter so that little is clipped; the others are clipped as the dice fall."""


class SceneCamera(NamedTuple):
    """Colour of the camera that took a scene: ``(3, 3)`` white-balanced camera RGB to canonical, and its gains."""

    camera_to_srgb: tuple[tuple[float, ...], ...]
    wb_gains: tuple[float, float, float]


@dataclass(frozen=True)
class Scene:
    """One source of light.

    Attributes:
        name: the file's stem.
        kind: where it comes from.
        light: canonical linear ``(3, H, W)`` float16, at least 0; HDR is scaled to a median luminance of 1.
        panorama: equirectangular, so that views of it are perspective projections.
        camera: that took it, for RAW files; None for others.
    """

    name: str
    kind: SceneKind
    light: Tensor
    panorama: bool = False
    camera: SceneCamera | None = None


def load_scenes(data: Path | None, raw_folders: Sequence[Path] = ()) -> tuple[Scene, ...]:
    """Load every training scene under a data folder (``hdr/``, ``raw/train``, ``srgb/kodak``, ``srgb/photos``).

    ``raw/validation`` is never opened. A RAW file of ``raw_folders`` that cannot be read is logged and left out.

    Args:
        data: the data folder, or None.
        raw_folders: further folders of RAW files (with a ``manifest.json`` where there are headerless dumps).

    Raises:
        MissingFileError: none of the folders holds a readable scene, or one of ``raw_folders`` is not there.
    """
    own = () if data is None else (*_hdr_scenes(data / "hdr"), *_raw_scenes(data / "raw"), *_srgb_scenes(data / "srgb"))
    scenes = (*own, *(scene for folder in raw_folders for scene in _scenes_of_raw_files(folder)))
    if not scenes:
        raise MissingFileError(
            f"No training scenes under {data or 'the RAW folders'}: expected hdr/*.hdr, raw/manifest.json, "
            "srgb/kodak/*.png, or RAW files. Pass --data FOLDER or --raw FOLDER."
        )
    return scenes


def held_out_names(names: Iterable[str]) -> frozenset[str]:
    """Choose what only judges and never trains: one in eight, by a hash of the name, and at least one.

    Raises:
        InvalidInputError: fewer than two names; nothing may be judged by what it was trained on.
    """
    hashed = {name: hashlib.sha256(name.encode()).digest() for name in names}
    if len(hashed) < 2:
        raise InvalidInputError(
            f"Found {len(hashed)} source of light; expected at least 2, so that one can judge what the others taught."
        )
    chosen = {name for name, digest in hashed.items() if digest[0] % _HELD_OUT_SHARE == 0}
    one = {min(hashed, key=lambda name: hashed[name])}
    return frozenset(chosen if 0 < len(chosen) < len(hashed) else one)


def scenes_digest(scenes: Sequence[Scene]) -> str:
    """Digest of what scenes are, in their order: names, kinds, and light at every 61st row and column."""
    digest = hashlib.sha256()
    for scene in scenes:
        digest.update(f"{scene.name}\0{scene.kind}\0{scene.panorama}\0{tuple(scene.light.shape)}\0".encode())
        digest.update(scene.light[:, ::61, ::61].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _hdr_scenes(folder: Path) -> Iterator[Scene]:
    for path in sorted(folder.glob("*.hdr")):
        light = torch.from_numpy(np.asarray(imagecodecs.rgbe_decode(path.read_bytes())).astype(np.float32)).permute(
            2, 0, 1
        )
        light = light.clamp_min(0.0)
        median = float(luminance(light).median())
        if not median > 0:
            log.warning("%s: median luminance is %g, expected more than 0; left out", path.name, median)
            continue
        panorama = abs(light.shape[2] / light.shape[1] - _PANORAMA_RATIO) < 0.02
        yield Scene(path.stem, "hdr", (light / median).clamp_max(6e4).half(), panorama)


def _raw_scenes(folder: Path) -> Iterator[Scene]:
    if not (folder / "manifest.json").exists():
        return
    for description in read_manifest(folder / "manifest.json"):
        if not description.file.startswith("train/"):
            continue
        frame = read_raw(folder / description.file, description)
        yield Scene(Path(description.file).stem, "raw", _developed_light(frame).half())


def _scenes_of_raw_files(folder: Path) -> Iterator[Scene]:
    for file in list_raw_files(folder):
        try:
            frame = read_raw(file.path, file.description)
        except AuraError as error:
            log.warning("left out: %s", error)
            continue
        camera = SceneCamera(tuple(tuple(map(float, row)) for row in frame.camera_to_srgb), frame.wb_gains)
        yield Scene(file.path.stem, "raw", _developed_light(frame).half(), camera=camera)


def _developed_light(frame: RawFrame) -> Tensor:
    """White-balanced, in canonical primaries, at half size or less: nothing demosaicked is ever called truth."""
    black = torch.tensor(frame.black_level).view(4, 1, 1)
    white = torch.tensor(frame.white_level).view(4, 1, 1)
    packed = pack(torch.from_numpy(frame.mosaic.astype(np.float32)), frame.cfa_pattern)
    camera = half_size_rgb((packed - black) / (white - black)).clamp_min(0.0)
    light = camera * torch.tensor(frame.wb_gains, dtype=torch.float32).view(3, 1, 1)
    if frame.xyz_to_camera is not None:
        light = apply_matrix(light, torch.from_numpy(camera_to_srgb_matrix(np.asarray(frame.xyz_to_camera))).float())
    return _shrink(light.clamp_min(0.0), 2 if min(light.shape[1:]) > 512 else 1)


def _srgb_scenes(folder: Path) -> Iterator[Scene]:
    for path in sorted([*folder.glob("kodak/*.png"), *folder.glob("photos/*.jpg"), *folder.glob("coco/**/*.jpg")]):
        with Image.open(path) as image:
            image.draft("RGB", (2 * _MAX_SIDE, 2 * _MAX_SIDE))
            pixels = torch.from_numpy(np.asarray(image.convert("RGB")).astype(np.float32) / 255.0).permute(2, 0, 1)
        # Two opinions of the unknown tone curve, by the name's coin; shrinking hides JPEG blocks and sharpening.
        classical = upi if hashlib.sha256(path.name.encode()).digest()[1] % 2 else srgb_to_linear
        yield Scene(path.stem, "srgb", _shrink(classical(pixels).clamp(0.0, 1.0), 2).half())


def _shrink(light: Tensor, at_least: int) -> Tensor:
    """Average whole blocks, by ``at_least`` and until no side is over the limit."""
    factor = max(at_least, -(-max(light.shape[1:]) // _MAX_SIDE))
    return F.avg_pool2d(light[None], factor)[0] if factor > 1 else light


def draw_view(scene: Scene, size: int, rng: np.random.Generator) -> Tensor:
    """Cut a square view and expose it.

    Args:
        scene: where to look.
        size: side of the view in pixels.
        rng: decides direction, field of view or crop, flip and exposure.

    Returns:
        Canonical linear ``(3, size, size)`` float32; 1.0 = saturation, above 1 is light that a sensor will clip.
    """
    view = _project(scene.light, size, rng) if scene.panorama else _crop(scene.light, size, rng)
    if rng.random() < 0.5:
        view = view.flip(-1)
    return _expose(_through_lens(view, float(rng.uniform(0.0, 1.1))), scene.kind, rng)


def _through_lens(view: Tensor, sigma: float) -> Tensor:
    """Blur by a Gaussian of ``sigma`` pixels: no lens draws single pixels, and shrunken scenes are too sharp."""
    offsets = torch.arange(-3.0, 4.0)
    kernel = torch.exp(-0.5 * (offsets / max(sigma, 0.05)) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 7)
    padded = F.pad(view[None], (3, 3, 3, 3), mode="reflect")
    rows = F.conv2d(padded, kernel[:, :, :, None], groups=3)
    blurred: Tensor = F.conv2d(rows, kernel[:, :, None, :], groups=3)
    return blurred.squeeze(0)


def _crop(light: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    shortest = min(light.shape[1:])
    side = int(np.exp(rng.uniform(np.log(min(size, shortest)), np.log(shortest))))
    top = int(rng.integers(light.shape[1] - side + 1))
    left = int(rng.integers(light.shape[2] - side + 1))
    window = light[None, :, top : top + side, left : left + side].float()
    view: Tensor = (
        F.interpolate(window, (size, size), mode="area")
        if side >= size
        else F.interpolate(window, (size, size), mode="bilinear", align_corners=False)
    )
    return view.squeeze(0)


def _project(light: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    """Perspective view of an equirectangular panorama; never straight down, where the tripod stands."""
    yaw, pitch = rng.uniform(-np.pi, np.pi), np.deg2rad(rng.uniform(-20.0, 35.0))
    half = np.tan(np.deg2rad(rng.uniform(45.0, 95.0)) / 2)
    axis = torch.linspace(-half, half, size, dtype=torch.float32)
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    z = torch.ones_like(x)
    up = y * float(np.cos(pitch)) + z * float(np.sin(pitch))
    ahead = z * float(np.cos(pitch)) - y * float(np.sin(pitch))
    longitude = torch.remainder(torch.atan2(x, ahead) + yaw + np.pi, 2 * np.pi) - np.pi
    latitude = torch.atan2(up, torch.hypot(x, ahead))
    grid = torch.stack([longitude / np.pi, -latitude * (2 / np.pi)], dim=-1)
    source = light[None].float()
    view: Tensor = F.grid_sample(source, grid[None], mode="bilinear", padding_mode="border", align_corners=False)
    return view.squeeze(0)


def _expose(view: Tensor, kind: SceneKind, rng: np.random.Generator) -> Tensor:
    """HDR: median to 1..40 % of saturation. Others have an exposure: vary it, darker only where nothing is clipped."""
    if kind == "hdr":
        target = float(np.exp2(np.clip(rng.normal(-3.2, 1.3), -6.5, -1.3)))
        gain = target / luminance(view).median().clamp_min(1e-4)
        if rng.random() < _PROTECTED_SHARE:  # a meter that spares all but the brightest lights
            bright = torch.quantile(view.amax(0).flatten(), float(rng.uniform(0.97, 1.0)))
            gain = torch.minimum(gain, 1.0 / bright.clamp_min(1e-4))
        return view * gain
    brighter = float(rng.uniform(0.0, 1.5)) * float(rng.random() < 0.4)
    darker = float(rng.uniform(-2.0, 0.0)) if float(view.max()) < 0.98 else 0.0
    return view * float(np.exp2(brighter if rng.random() < 0.5 else darker))
