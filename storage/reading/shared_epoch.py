"""The epoch as the main process says it, for workers that live through several."""

from __future__ import annotations

import torch


class SharedEpoch:
    """A number that a DataLoader's workers see when it changes, forked or spawned; a pickled copy is its own."""

    def __init__(self) -> None:
        self._number = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def get(self) -> int:
        """Return it."""
        return int(self._number)

    def set(self, epoch: int) -> None:
        """Change it, here and in all workers."""
        self._number.fill_(epoch)
