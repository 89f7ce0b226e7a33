"""The threads of a worker that makes shards: some read, some compute, some encode."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import torch

_READERS: Final = 2  # one waits for the storage while the other decodes
_GPU_READERS: Final = 8
_GPU_ENCODERS: Final = 4
_GPU_LANES: Final = 2  # one sees to its results while the other's kernels run


@dataclass(frozen=True)
class Lanes:
    """Thread pools of one shard.

    Attributes:
        readers: fetch and decode.
        compute: invert, simulate, measure.
        encoders: compress.
        width: threads of ``compute``.
    """

    readers: ThreadPoolExecutor
    compute: ThreadPoolExecutor
    encoders: ThreadPoolExecutor
    width: int


@contextlib.contextmanager
def lanes(device: torch.device) -> Iterator[Lanes]:
    """Start the threads that suit a device, and stop them.

    On a CPU each computing thread runs torch by itself, as many as torch was given: samples beside each other keep the
    cores busy where threads within a layer wait for each other, and a layer's sums do not depend on their number.
    On a GPU each computing thread has a stream of its own.
    """
    threads = torch.get_num_threads()
    gpu = device.type == "cuda"
    width = _GPU_LANES if gpu else threads
    with (
        ThreadPoolExecutor(_GPU_READERS if gpu else _READERS, "read") as readers,
        ThreadPoolExecutor(width, "compute", _begin_lane, (device,)) as compute,
        ThreadPoolExecutor(_GPU_ENCODERS if gpu else 1, "encode") as encoders,
    ):
        try:
            yield Lanes(readers, compute, encoders, width)
        finally:
            torch.set_num_threads(threads)  # of MKL the lanes have changed it for all


def _begin_lane(device: torch.device) -> None:
    torch.set_num_threads(1)
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]  # torch's stub lacks it
