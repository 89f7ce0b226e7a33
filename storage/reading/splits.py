"""Holding photographs out of training: by photograph, never by sample, and the same ones as a corpus grows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from aura.errors import InvalidInputError
from storage.reading.draws import draw_unit


@dataclass(frozen=True, slots=True)
class Split:
    """One of two parts of a dataset's photographs.

    A photograph's part follows from its SHA-256 and the seed alone. So all samples of a photograph are in one part, and
    it stays there whatever else the corpus gains, and in other datasets that are made of it.

    Attributes:
        part: which of the two.
        share: of the photographs that are held out, expected; in (0, 1).
        seed: another one holds others out.
    """

    part: Literal["train", "held_out"]
    share: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no split."""
        if self.part not in {"train", "held_out"}:
            raise InvalidInputError(f"part is {self.part!r}; expected 'train' or 'held_out'.")
        if not 0 < self.share < 1:
            raise InvalidInputError(f"share is {self.share}; expected a number between 0 and 1.")

    def of(self, samples: pa.Table) -> pa.Table:
        """Return this part of a table of samples (:data:`storage.datasets.samples.SAMPLE_SCHEMA`)."""
        photographs = [int(digest[:16], 16) for digest in samples["source_sha256"].to_pylist()]
        held_out = draw_unit(self.seed, np.array(photographs, np.uint64)) < self.share
        return samples.filter(pa.array(held_out if self.part == "held_out" else ~held_out)).combine_chunks()
