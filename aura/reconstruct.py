"""Weights to canonical light: any photograph of any size, whole or in tiles, on CPU or GPU.

``Reconstructor.load()`` gives the released AURA, ``method="aura_global"`` its global map alone, and ``"upi"`` and
``"linearise"`` the classical inverses behind the same interface.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from aura import unprocess
from aura.errors import InvalidInputError, MissingFileError, WeightsError
from aura.inversion import ClassicalInversion, GlobalInversion, Inversion, NetworkInversion, Window, run_pass
from aura.nets.aura import Aura, AuraConfig
from aura.nets.context import summarise_codes

Method = Literal["aura", "aura_global", "upi", "linearise"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)
RELEASED_WEIGHTS: Final = Path(__file__).parent / "weights" / "aura.safetensors"
MIN_SIDE: Final = 16

_DIGEST_OF: Final[dict[Method, bytes]] = {"aura": b"aura/2", "aura_global": b"aura_global/1"}


@dataclass(frozen=True)
class Passes:
    """How much a device does at once; bounds memory.

    Attributes:
        whole_pixels: up to here a photograph is one pass; above, each tile or window of its own.
        tile: pixels a side of a tile.
        batch_pixels: of photographs of one shape, or of samples, that go together; 0: each alone.
    """

    whole_pixels: int
    tile: int
    batch_pixels: int

    @classmethod
    def on(cls, device: torch.device) -> Passes:
        """What suits a device: a CPU keeps to its caches, a GPU takes longer to start work than to do a little."""
        if device.type == "cpu":
            return ON_CPU
        memory = torch.cuda.get_device_properties(device).total_memory
        return Passes(8_400_000, 2048, min(16_000_000, memory // _GPU_BYTES_A_PIXEL))


ON_CPU: Final = Passes(whole_pixels=2_100_000, tile=1024, batch_pixels=0)
_GPU_BYTES_A_PIXEL: Final = 1000
"""Of its memory, with room: 130 bytes of tensors live at most, for each of two threads, and kernels work in more."""


@dataclass(frozen=True)
class Reconstructor:
    """An inverse ISP that is ready to use.

    Attributes:
        name: the method.
        digest: hex sha256 of the method and its weights: part of a dataset's identity.
        device: where it computes.
        passes: how much it does at once.
    """

    name: Method
    digest: str
    device: torch.device
    passes: Passes
    _model: Aura | None = None

    @classmethod
    def load(cls, method: Method = "aura", weights: Path | None = None, device: str = "auto") -> Reconstructor:
        """Load an inverse ISP.

        Args:
            method: ``aura`` (a network), ``aura_global`` (its global map without the local residual, several times
                faster), ``upi`` (Brooks et al. 2019) or ``linearise`` (inverse sRGB curve only).
            weights: safetensors of another AURA than the released one; only with ``aura`` and ``aura_global``.
            device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto`` for a GPU if there is one.

        Raises:
            InvalidInputError: an unknown method, weights for a method without any, or a device that is not there.
            MissingFileError: no file at ``weights``.
            WeightsError: the file is not AURA's, or its head is not the canonical one.
        """
        place = choose_device(device)
        if method not in METHODS:
            raise InvalidInputError(f"Method is {method!r}; expected one of {', '.join(METHODS)}.")
        if method in ("upi", "linearise"):
            if weights is not None:
                raise InvalidInputError(f"Method {method!r} has no weights, but {weights} was given. Drop one of them.")
            return cls(method, hashlib.sha256(f"{method}/1".encode()).hexdigest(), place, Passes.on(place))
        path = weights or RELEASED_WEIGHTS
        model = load_weights(path).eval()
        if model.config.head != "canonical":
            raise WeightsError(
                f"{path} has the {model.config.head} head, which gives one camera's planes and no canonical light; "
                "expected the canonical head. Use such weights through aura.nets.aura, or train with head: canonical."
            )
        model = fold_batch_norms(model)
        if place.type == "cuda":
            # cuDNN's TF32 has 10 bits of mantissa: for what float16 is not good enough for, neither is that
            torch.backends.cudnn.allow_tf32 = False
        model = model.to(place).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks this form
        digest = hashlib.sha256(_DIGEST_OF[method] + path.read_bytes()).hexdigest()
        return cls(method, digest, place, Passes.on(place), model)

    def canonical(self, image: NDArray[np.uint8], windows: Sequence[Window] | None = None) -> list[Tensor]:
        """Invert the ISP of a photograph.

        Args:
            image: sRGB ``(H, W, 3)`` uint8, the whole photograph, sides at least 16.
            windows: the parts wanted; None for the whole.

        Returns:
            One ``(3, h, w)`` float32 CPU tensor per window: canonical linear, 1.0 = sensor saturation, not clipped.
            Each knows the whole photograph, and none depends on which others are asked for.

        Raises:
            InvalidInputError: wrong dtype or shape, too small, or a window outside the image or odd.
        """
        _check_image(image)
        height, width = image.shape[:2]
        wanted = [Window(0, 0, height, width)] if windows is None else list(windows)
        if windows is not None:
            _check_windows(wanted, height, width)
        inversion = self.begin(image)
        parts: dict[int, Tensor] = {}
        for group in inversion.groups(wanted):
            parts |= zip(group.members, inversion.lights(group), strict=True)
        return [parts[member].cpu() for member in range(len(wanted))]

    def begin(self, image: NDArray[np.uint8]) -> Inversion:
        """Look at a whole photograph, so that its parts can be inverted one by one, on any thread.

        A photograph of up to ``passes.whole_pixels`` is inverted here, in one pass.

        Args:
            image: sRGB ``(H, W, 3)`` uint8, the whole photograph, sides at least 16.

        Raises:
            InvalidInputError: wrong dtype or shape, or too small.
        """
        return self.begin_batch([image])[0]

    def begin_batch(self, images: Sequence[NDArray[np.uint8]]) -> list[Inversion]:
        """Do what :meth:`begin` does for photographs of one shape, in one pass: on a GPU, small ones cost less so.

        Raises:
            InvalidInputError: as for :meth:`begin`, or the shapes differ.
        """
        for image in images:
            _check_image(image)
        if len({image.shape for image in images}) > 1:
            shapes = sorted({image.shape for image in images})
            raise InvalidInputError(f"Photographs of a batch have shapes {shapes}; expected one. Sort them.")
        codes = _upload(images, self.device)
        if self._model is None:
            formula = unprocess.upi if self.name == "upi" else unprocess.linearise
            return [ClassicalInversion(one[None], formula) for one in codes.unbind(0)]
        with torch.inference_mode():
            context = self._model.context(summarise_codes(codes))
            maps = self._model.code_maps(context) if self.name == "aura_global" else None
            whole: Sequence[Tensor | None] = [None] * len(images)
            if maps is None and codes.shape[-2] * codes.shape[-1] <= self.passes.whole_pixels:
                whole = run_pass(self._model, codes, Window(0, 0, *codes.shape[-2:]), context).unbind(0)
            if self.device.type == "cuda":  # whoever goes on may do so on another stream
                torch.cuda.current_stream(self.device).synchronize()
        if maps is not None:
            return [GlobalInversion(one, each) for one, each in zip(codes.unbind(0), maps, strict=True)]
        return [
            NetworkInversion(self._model, codes[row : row + 1], context.of(row), light, self.passes.tile)
            for row, light in enumerate(whole)
        ]


def load_weights(path: Path) -> Aura:
    """Read a network from safetensors, its architecture from the header.

    Raises:
        MissingFileError: no such file.
        WeightsError: damaged, not AURA's, or not matching its own header.
    """
    if not path.is_file():
        raise MissingFileError(f"No weights at {path}. Make some with 'aura train', or use the released ones.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        model = Aura(AuraConfig.model_validate_json(metadata["architecture"]))
        model.load_state_dict(tensors)
    except (SafetensorError, KeyError, ValidationError, RuntimeError) as error:
        first_line = str(error).splitlines()[0]
        raise WeightsError(
            f"{path} does not hold AURA weights ({type(error).__name__}: {first_line}). "
            "Use a file that 'aura train' wrote."
        ) from error
    return model


def fold_batch_norms(model: Aura) -> Aura:
    """Take each batch norm into the convolution before it; the model can then compute, but not be trained or saved."""
    for layers in model.modules():
        if isinstance(layers, nn.Sequential):
            for place, (convolution, norm) in enumerate(pairwise(layers)):
                if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    layers[place], layers[place + 1] = fuse_conv_bn_eval(convolution, norm), nn.Identity()
    return model


def choose_device(device: str) -> torch.device:
    """Return the device that is meant by auto, cpu, cuda or cuda:N.

    Raises:
        InvalidInputError: it is none of these, or PyTorch finds no such GPU.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InvalidInputError(f"Device is {device!r}; expected auto, cpu, cuda or cuda:N.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InvalidInputError(f"Device is {device!r}, but this PyTorch finds no GPU. Use --device cpu or auto.")
    if chosen.type == "cuda" and (chosen.index or 0) >= (count := torch.cuda.device_count()):
        raise InvalidInputError(f"Device is {device!r}, but there are {count} GPUs; the last is cuda:{count - 1}.")
    return chosen


def _check_image(image: NDArray[np.uint8]) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InvalidInputError(f"Image is {image.dtype} of shape {image.shape}; expected uint8 (H, W, 3).")
    if min(image.shape[:2]) < MIN_SIDE:
        raise InvalidInputError(
            f"Image is {image.shape[1]}x{image.shape[0]}; each side must be at least {MIN_SIDE} pixels."
        )


def _check_windows(windows: Sequence[Window], height: int, width: int) -> None:
    for window in windows:
        inside = min(window.top, window.left) >= 0 and min(window.height, window.width) > 0
        inside = inside and window.top + window.height <= height and window.left + window.width <= width
        if not inside or any(value % 2 for value in window):
            raise InvalidInputError(
                f"{window} is odd or outside the {width}x{height} image; expected even values inside it."
            )


def _upload(images: Sequence[NDArray[np.uint8]], device: torch.device) -> Tensor:
    """B times ``(H, W, 3)`` -> ``(B, 3, H, W)``, uint8; the channels-last layout comes for free."""
    # torch takes writable arrays only
    pixels = [torch.from_numpy(np.require(image, requirements=["C", "W"])) for image in images]
    batch = pixels[0][None] if len(pixels) == 1 else torch.stack(pixels)
    if device.type == "cuda":  # from pinned memory the copy does not hold up this thread
        batch = batch.pin_memory().to(device, non_blocking=True)
    return batch.permute(0, 3, 1, 2)
