"""Denoise Net: a frozen DnCNN beside a trainable branch, whose summed noise estimate is subtracted from the image.

It works on the pixel-unshuffled YCbCr image (12 planes at half size), so no layer runs at a resolution that RAW does
not have. DnCNN: K. Zhang et al., "Beyond a Gaussian denoiser", IEEE TIP 2017.
"""

from __future__ import annotations

from torch import Tensor, nn


class DnCnn(nn.Module):
    """Residual noise estimator: conv + ReLU, then conv + BN + ReLU blocks, then conv; ``(B, C, h, w)`` to the same."""

    def __init__(self, channels: int, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        layers.append(nn.Conv2d(width, channels, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Estimate the noise in an image."""
        noise: Tensor = self.layers(image)
        return noise


class DenoiseNet(nn.Module):
    """image - linear(DnCNN(image) + branch(image)); the linear layer starts at half of DnCNN's own estimate."""

    def __init__(self, channels: int, width: int = 16, depth: int = 4) -> None:
        super().__init__()
        self.backbone = DnCnn(channels, width, depth)
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        self.linear = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.branch[1].weight)  # type: ignore[arg-type]  # nn.Sequential's items are typed as Module
        nn.init.dirac_(self.linear.weight)
        self.linear.weight.data.mul_(0.5)
        nn.init.zeros_(self.linear.bias)  # type: ignore[arg-type]  # a bias exists by construction

    def freeze_backbone(self) -> None:
        """Keep the pretrained DnCNN as it is: no gradients, and its batch statistics no longer move."""
        self.backbone.requires_grad_(requires_grad=False)
        self.backbone.eval()

    def train(self, mode: bool = True) -> DenoiseNet:
        """Switch mode; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if not next(self.backbone.parameters()).requires_grad:
            self.backbone.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Return the image less its estimated noise, same shape."""
        cleaned: Tensor = image - self.linear(self.backbone(image) + self.branch(image))
        return cleaned
