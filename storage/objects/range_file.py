"""A stored object as a file that is read in place by byte ranges, for libraries that want a file."""

from __future__ import annotations

import io

from storage.objects.location import Location


class RangeFile(io.RawIOBase):
    """Reads ahead in blocks, so that what lies together costs one request; holds one block at a time.

    Args:
        place: the object.
        size: its bytes.
        ahead: bytes of a block.
        largest: bytes that one ``read`` may ask for; what a damaged or hostile file asks beyond is refused.

    Raises:
        ValueError: from ``read``, where more than ``largest`` is asked for, or another number of bytes comes.
        MissingFileError: from ``read``: the object is gone.
        StorageAccessError: from ``read``: the credentials were refused.
        StorageError: from ``read``: the storage refused.
    """

    def __init__(self, place: Location, size: int, ahead: int, largest: int) -> None:
        super().__init__()
        self._place = place
        self._size = size
        self._ahead = ahead
        self._largest = largest
        self._at = 0
        self._start = 0
        self._block = b""

    def readable(self) -> bool:
        """True: it is for reading only."""
        return True

    def seekable(self) -> bool:
        """True: every place is as near as any other."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, as every file does; nothing is read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"place {base + offset} lies before the beginning")
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return up to ``size`` bytes, fewer only at the end."""
        stop = self._size if size is None or size < 0 else min(self._at + size, self._size)
        if stop - self._at > self._largest:
            raise ValueError(f"it asks for {stop - self._at} bytes at once, and {self._largest} are allowed")
        found = self.range(self._at, stop)
        self._at += len(found)
        return found

    def readinto(self, target: bytearray | memoryview) -> int:  # type: ignore[override]  # the buffers that are given
        """Fill ``target`` as far as there are bytes; tells how many."""
        found = self.read(len(target))
        target[: len(found)] = found
        return len(found)

    def range(self, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` up to ``stop`` or the end, however many, without going there."""
        stop = min(stop, self._size)
        if stop <= start:
            return b""
        if start < self._start or stop > self._start + len(self._block):
            end = min(self._size, max(stop, start + self._ahead))
            block = self._place.read(start, end)
            if len(block) != end - start:  # it is shorter now, or its server gives other ranges than it is asked for
                raise ValueError(f"{len(block)} bytes came where {end - start} were asked for")
            self._block, self._start = block, start
        return self._block[start - self._start : stop - self._start]
