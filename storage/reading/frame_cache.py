"""Decoded samples kept on a local disk, so that later epochs neither fetch nor decode them.

A cache is two files that are mapped into memory and shared by all processes that read the same samples: the frames, as
they are, and a byte for each that says whether it is there. It holds the first samples that fit and never evicts: an
epoch comes by every sample once, so evicting would only make room for what is needed later still. Its room is taken
when it is opened, so a full disk is told then, not by a crash.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aura.errors import StorageError


class FrameCache:
    """A cache of one array's samples; open it anew in each process."""

    def __init__(
        self, folder: Path, identity: Sequence[str], shape: tuple[int, ...], dtype: np.dtype[Any], count: int, room: int
    ) -> None:
        """Open or begin a cache.

        Args:
            folder: on a local disk; made if it is not there.
            identity: texts that name the samples, in their order.
            shape: of one sample.
            dtype: of its values.
            count: how many samples there are.
            room: bytes that may be taken.

        Raises:
            StorageError: there is no room, or the folder cannot be written.
        """
        one = int(np.prod(shape)) * dtype.itemsize
        self.capacity = min(count, room // one)
        # what was mapped may be lost in part when a machine stops, so no cache outlives its boot
        digest = hashlib.sha256("\0".join([_boot(), str(dtype), str(shape), *identity]).encode()).hexdigest()[:32]
        if not self.capacity:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            frames = _map(folder / f"{digest}.frames", self.capacity * one)
            flags = _map(folder / f"{digest}.flags", self.capacity)
        except OSError as error:
            hint = "Free some space, or give it less." if error.errno == errno.ENOSPC else "Choose another folder."
            raise StorageError(f"Cannot keep a cache in {folder}: {error.strerror}. {hint}") from error
        self._frames: npt.NDArray[Any] = np.frombuffer(frames, dtype, self.capacity * one // dtype.itemsize).reshape(
            self.capacity, *shape
        )
        self._flags: npt.NDArray[np.uint8] = np.frombuffer(flags, np.uint8, self.capacity)

    def has(self, place: int) -> bool:
        """Tell whether a sample is here."""
        return place < self.capacity and bool(self._flags[place])

    def frame(self, place: int) -> npt.NDArray[Any]:
        """Return a sample that is here, without copying it; it must not be written to."""
        found: npt.NDArray[Any] = self._frames[place]
        return found

    def keep(self, place: int, frame: npt.NDArray[Any]) -> None:
        """Keep a sample if there is room for it."""
        if place < self.capacity:
            self._frames[place] = frame
            self._flags[place] = 1  # after the frame: who sees the flag sees the frame


def _map(path: Path, size: int) -> mmap.mmap:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return ""
