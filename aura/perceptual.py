"""LPIPS without a download and without torchvision.

The trunk (AlexNet, torchvision's key names) ships with this package; the five linear heads come with the
``lpips`` distribution. Only its data file is read: importing ``lpips`` would import torchvision, whose
operators fail to register beside a CPU-only torch ("operator torchvision::nms does not exist"), and nothing
here needs them.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from aura.errors import InvalidInputError, MissingFileError, WeightsError

DEFAULT_TRUNK: Final = Path(__file__).parent / "weights" / "alexnet_features.safetensors"
SMALLEST_SIDE: Final = 31
"""Pixels a side below which AlexNet's second pooling has nothing left to pool."""

_HEAD_KEYS: Final = tuple(f"lin{layer}.model.1.weight" for layer in range(5))
_TAPPED_RELUS: Final = (1, 4, 7, 9, 11)
# per-channel mean and deviation of the display range [-1, 1] (lpips 0.1.4, ScalingLayer)
_SHIFT: Final = (-0.030, -0.088, -0.188)
_SCALE: Final = (0.458, 0.448, 0.450)


class Lpips(nn.Module):
    """Learned perceptual distance, AlexNet, version 0.1 (R. Zhang et al., CVPR 2018).

    Frozen: its parameters take no gradient, its inputs do. It always computes in float32.

    Args:
        trunk: safetensors file with AlexNet's ``features.*`` weights; the one that ships with the package
            if None.

    Raises:
        MissingFileError: the trunk, or the heads of the ``lpips`` distribution, are not there.
        WeightsError: a file that is damaged or holds something else.
    """

    def __init__(self, trunk: Path | None = None) -> None:
        super().__init__()
        with torch.device("meta"):  # no random initial weights: building a metric must not move the global generator
            self.features = _alexnet_features()
        path = DEFAULT_TRUNK if trunk is None else trunk
        _load_trunk(self.features, path)
        for layer, head in enumerate(_read_heads()):
            self.register_buffer(f"head{layer}", head)
        self.register_buffer("shift", torch.tensor(_SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(_SCALE).view(1, 3, 1, 1))
        self.requires_grad_(requires_grad=False)
        self.eval()

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Return the distance of each pair, 0 for equal images.

        Args:
            image: ``(B, 3, H, W)``, display values in [0, 1], sides of at least 31 pixels.
            reference: same shape, or ``(1, 3, H, W)`` for all of them.

        Returns:
            ``(B,)`` float32; symmetric, and usually below 1.

        Raises:
            InvalidInputError: shapes differ, or are not ``(B, 3, H, W)`` of at least 31 pixels a side.
        """
        fits = reference.shape in (image.shape, (1, *image.shape[1:]))
        if not fits or image.ndim != 4 or image.shape[1] != 3:
            raise InvalidInputError(
                f"LPIPS got shapes {tuple(image.shape)} and {tuple(reference.shape)}; expected the same (B, 3, H, W)."
            )
        if min(image.shape[-2:]) < SMALLEST_SIDE:
            raise InvalidInputError(
                f"LPIPS got {image.shape[-2]}x{image.shape[-1]} pixels; expected {SMALLEST_SIDE} or more. "
                "Use a larger crop, or leave LPIPS out."
            )
        with torch.autocast(image.device.type, enabled=False):
            both = torch.cat([image, reference]).float() * 2.0 - 1.0
            return self._distance((both - self.get_buffer("shift")) / self.get_buffer("scale"), image.shape[0])

    def _distance(self, both: Tensor, count: int) -> Tensor:
        """Compare the first ``count`` images with the others."""
        distance = both.new_zeros(count)
        features, layer = both, 0
        for index, module in enumerate(self.features):
            features = module(features)
            if index in _TAPPED_RELUS:
                unit = _unit_length(features)
                difference = (unit[:count] - unit[count:]) ** 2
                head = self.get_buffer(f"head{layer}")
                distance = distance + (difference * head).sum(dim=1).mean(dim=(-2, -1))
                layer += 1
        return distance


def _alexnet_features() -> nn.Sequential:
    """AlexNet's convolutions up to the fifth ReLU (A. Krizhevsky, 2014, the "one weird trick" form)."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


def _unit_length(features: Tensor) -> Tensor:
    # the clamp keeps the gradient of the root finite where every feature is off
    length = (features**2).sum(dim=1, keepdim=True).clamp_min(1e-20).sqrt()
    return features / (length + 1e-10)


def _load_trunk(features: nn.Sequential, path: Path) -> None:
    if not path.is_file():
        raise MissingFileError(f"LPIPS trunk {path} does not exist; expected AlexNet's features as safetensors.")
    try:
        state = load_file(path)
        features.load_state_dict({key.removeprefix("features."): value for key, value in state.items()}, assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise WeightsError(
            f"LPIPS trunk {path} cannot be loaded ({error}); expected AlexNet's ten features.* tensors."
        ) from error


def _read_heads() -> tuple[Tensor, ...]:
    # find_spec locates the distribution without running its __init__
    package = importlib.util.find_spec("lpips")
    if package is None or not package.submodule_search_locations:
        raise MissingFileError(
            "The lpips distribution is not installed; its heads are needed. Run pip install lpips==0.1.4."
        )
    path = Path(package.submodule_search_locations[0]) / "weights" / "v0.1" / "alex.pth"
    if not path.is_file():
        raise MissingFileError(f"LPIPS heads {path} do not exist; expected those of lpips 0.1.4. Install that version.")
    state = torch.load(path, map_location="cpu", weights_only=True)
    missing = [key for key in _HEAD_KEYS if key not in state]
    if missing:
        raise WeightsError(f"LPIPS heads {path} lack {', '.join(missing)}; install lpips==0.1.4.")
    return tuple(state[key].float() for key in _HEAD_KEYS)
