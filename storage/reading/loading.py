"""A stream's batches made by worker processes, with a state that resumes in mid-epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from torch.utils.data import DataLoader

from aura.errors import InvalidInputError
from storage.reading.streaming import RawStream, as_tensors

StartMethod = Literal["fork", "spawn", "forkserver"]


class RawLoader:
    """Iterates a :class:`storage.reading.RawStream` by worker processes; one iteration is what is left of an epoch.

    The state counts batches that were handed over, not those that workers have made ahead, so what a training step has
    not seen comes again after resuming, and nothing else does. It costs nothing while iterating: each batch says where
    in the epoch it belongs, and no worker is asked.
    """

    def __init__(
        self,
        stream: RawStream,
        *,
        num_workers: int = 2,
        prefetch_factor: int = 2,
        pin_memory: bool = False,
        start_method: StartMethod | None = None,
    ) -> None:
        """Prepare; workers begin with each iteration.

        Args:
            stream: what to iterate; its :meth:`~storage.reading.streaming.RawStream.set_epoch` is called here.
            num_workers: processes; 0 reads in this one.
            prefetch_factor: batches that a worker makes ahead.
            pin_memory: put batches where a GPU copies from faster.
            start_method: how workers begin; None for the platform's way.

        Raises:
            InvalidInputError: a number is out of range.
        """
        if num_workers < 0 or prefetch_factor < 1:
            raise InvalidInputError(
                f"num_workers is {num_workers} and prefetch_factor {prefetch_factor}; expected at least 0 and 1."
            )
        self.stream = stream
        self._workers = num_workers
        self._options: dict[str, Any] = {"num_workers": num_workers, "pin_memory": pin_memory}
        if num_workers:
            self._options |= {"prefetch_factor": prefetch_factor, "multiprocessing_context": start_method}

    def __len__(self) -> int:
        """Number of batches of a whole epoch."""
        return len(self.stream)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield what is left of the epoch, then begin the next one.

        Raises:
            StorageError: the storage refused.
        """
        stream, epoch = self.stream, self.stream.epoch
        # small arrays cross the process border by value: as tensors each would cost a file descriptor
        for batch in DataLoader(stream, batch_size=None, collate_fn=_as_it_is, **self._options):
            if self._workers:
                stream.mark(batch["position"].tolist(), self._workers)
            yield as_tensors(batch)
        if stream.epoch == epoch:
            stream.set_epoch(epoch + 1)

    def state_dict(self) -> dict[str, Any]:
        """Say where the epoch stands, as JSON types; see :meth:`storage.reading.RawStream.load_state_dict`."""
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken, in the next iteration.

        Raises:
            InvalidInputError: the state is of another stream.
        """
        self.stream.load_state_dict(state)


def _as_it_is(batch: Any) -> Any:
    return batch
