"""A figure with its confidence interval, by resampling (B. Efron, The Annals of Statistics 7, 1979)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

RESAMPLES: Final = 300
SEED: Final = 0x70746D  # of the resampling, so that the same frames give the same intervals
_CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % confidence interval, by resampling blocks or rows.

    Attributes:
        value: best estimate.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


def estimate(value: float, resampled: np.ndarray) -> Estimate:
    """Put an estimate beside the interval that resampled ones, ``(n,)``, span."""
    tail = 50.0 * (1.0 - _CONFIDENCE)
    low, high = np.percentile(resampled, [tail, 100.0 - tail])
    return Estimate(float(value), float(low), float(high))
