"""The threads of a worker that makes shards: some read, some compute, some encode."""

import contextlib
import itertools
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from threading import Lock
from typing import Final

import torch

from flows.shards.turns import Turns

_READERS: Final = 2  # one waits for the storage while the other decodes
_PIXELS_AHEAD: Final = 48_000_000
_GPU_PIXELS_AHEAD: Final = 192_000_000  # a photograph of 24 megapixels for each of eight readers
_GPU_LANES: Final = 2  # one sees to its results while the other's kernels run


@dataclass(frozen=True)
class Lanes:
    """Threads of one shard.

    Attributes:
        readers: fetch and decode.
        pixels_ahead: of photographs that are read or wait, 3 bytes each; one photograph that is larger goes alone.
        compute: invert, simulate, measure; shared with the other shard in hand, the older one first.
        width: threads of ``compute``.
        encoders: compress.
        encoders_width: threads of ``encoders``.
    """

    readers: ThreadPoolExecutor
    pixels_ahead: int
    compute: Executor
    width: int
    encoders: ThreadPoolExecutor
    encoders_width: int


class _Computing:
    """The computing threads of a device while shards are in hand; numbers say who has which pools of its own."""

    def __init__(self, device: torch.device) -> None:
        self.width = _GPU_LANES if device.type == "cuda" else _threads()
        self.turns = Turns(self.width, partial(_begin_lane, device), "compute")
        self.numbers: set[int] = set()


_lock: Final = Lock()
_computing: Final[dict[torch.device, _Computing]] = {}


@contextlib.contextmanager
def lanes(device: torch.device) -> Iterator[Lanes]:
    """Start the threads that suit a device, and stop them; shards that are in hand at once share those that compute.

    On a CPU each computing thread runs torch by itself, as many as torch was given: samples beside each other keep the
    cores busy where threads within a layer wait for each other, and a layer's sums do not depend on their number.
    On a GPU each computing thread has a stream of its own, and all cores read and encode.
    """
    gpu = device.type == "cuda"
    reading, encoding = (max(_READERS, _threads()), _threads()) if gpu else (_READERS, 1)
    with (
        _joined(device) as (computing, number),
        computing.turns.turn() as compute,
        ThreadPoolExecutor(reading, f"shard {number} read") as readers,
        ThreadPoolExecutor(encoding, f"shard {number} encode") as encoders,
    ):
        ahead = _GPU_PIXELS_AHEAD if gpu else _PIXELS_AHEAD
        yield Lanes(readers, ahead, compute, computing.width, encoders, encoding)


@contextlib.contextmanager
def _joined(device: torch.device) -> Iterator[tuple[_Computing, int]]:
    """Share a device's computing threads: who is first starts them, who is last stops them."""
    with _lock:
        if device not in _computing:
            _computing[device] = _Computing(device)
        computing = _computing[device]
        number = next(number for number in itertools.count() if number not in computing.numbers)
        computing.numbers.add(number)
    try:
        yield computing, number
    finally:
        with _lock:
            computing.numbers.remove(number)
            if not computing.numbers:
                del _computing[device]
                computing.turns.close()
                torch.set_num_threads(_threads())  # the lanes have changed it for threads that use torch later


@lru_cache(maxsize=1)
def _threads() -> int:
    """Threads that torch was given, asked once: while lanes run, torch tells new threads of the process theirs, 1."""
    return torch.get_num_threads()


def _begin_lane(device: torch.device) -> None:
    torch.set_num_threads(1)
    if device.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]  # torch's stub lacks it
