"""The validation curve: fixed pairs of files that training never sees, scored by aligned PSNR."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from aura.color import srgb_to_linear
from aura.metrics import psnr_aligned
from aura.training.network import Network, canonical_of
from aura.training.pairs import PairBatch
from aura.training.stage_losses import predicted_raw

log = logging.getLogger(__name__)


class Judge:
    """Scores networks on fixed batches.

    Attributes:
        linearise: mean aligned PSNR in dB of the inverse sRGB curve alone, for scale.
    """

    def __init__(self, batches: Sequence[PairBatch], device: str) -> None:
        self._batches, self._device = batches, device
        self.linearise = self._mean(lambda batch: srgb_to_linear(batch.image.to(device)))
        log.info("validation: linearise only %.2f dB aligned", self.linearise)

    def score(self, model: Network) -> float:
        """Mean aligned PSNR in dB of a network in evaluation mode."""
        return self._mean(lambda batch: canonical_of(model, batch, self._device))

    def _mean(self, invert: Callable[[PairBatch], Tensor]) -> float:
        with torch.inference_mode():
            scores = [
                psnr_aligned(predicted_raw(invert(batch), batch).clamp(0.0, 1.0), batch.raw.to(self._device))
                for batch in self._batches
            ]
        return float(torch.cat(scores).mean())
