"""Samples of one array, read as the byte ranges of their chunks: an index and one range per shard, and no more.

What lies on disk is plain Zarr v3 with the sharding codec (https://zarr-specs.readthedocs.io/en/latest/v3/codecs/
sharding-indexed); reading it here costs some microseconds a chunk where a general library costs a millisecond.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import google_crc32c
import numcodecs
import numpy as np
import numpy.typing as npt
from numcodecs.pcodec import PCodec

from aura.errors import IntegrityError, InvalidInputError, MissingFileError
from storage.datasets.dataset import Dataset
from storage.datasets.layout import object_location
from storage.objects.location import Location
from storage.objects.tables import facts_of, read_table
from storage.objects.transport import Bytes, Transport, open_transport

_ABSENT: Final = 2**64 - 1
_CRC_BYTES: Final = 4
_LARGEST_RANGE: Final = 16 * 2**20
_KEPT_INDEXES: Final = 4096


class SampleChunks:
    """The chunks of an array whose chunk is one sample and whose shard is some samples.

    Attributes:
        shape: of one sample.
        dtype: of its values.
        shard_size: samples to a shard.
    """

    def __init__(self, place: Location, name: str, transport: Transport) -> None:
        """Read the array's metadata.

        Raises:
            MissingFileError: there is no such array.
            IntegrityError: its metadata are damaged, or lay it out in another way.
            StorageError: the storage refused.
        """
        self._name = name
        self._dataset = place
        self._url = f"{place.url}/{name}"
        self._transport = transport
        metadata = _metadata(place.join(name))
        inner = _sharding(metadata, self._url)
        self.dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
        self.shape = tuple(inner["chunk_shape"][1:])
        self.shard_size = int(metadata["chunk_grid"]["configuration"]["chunk_shape"][0])
        codecs = inner["codecs"]
        self._checksums = codecs[-1]["name"] == "crc32c"
        self._decoder = _decoder(codecs[:-1] if self._checksums else codecs, self._url)
        self._index = lru_cache(maxsize=_KEPT_INDEXES)(self._read_index)

    def read(self, shard: int, slots: Sequence[int]) -> list[Bytes]:
        """Read the encoded chunks of samples of one shard; neighbours come in one range.

        Args:
            shard: its number.
            slots: places within the shard, ascending.

        Returns:
            For each slot its chunk, empty where the sample is all zero.

        Raises:
            MissingFileError: the shard has no object.
            IntegrityError: its index is damaged.
            StorageError: the storage refused.
        """
        index = self._index(shard)
        wanted = [(position, *index[slot]) for position, slot in enumerate(slots) if index[slot][1]]
        wanted.sort(key=lambda chunk: chunk[1])
        spans: list[list[tuple[int, int, int]]] = []
        for chunk in wanted:
            last = spans[-1] if spans else None
            follows = last is not None and last[-1][1] + last[-1][2] == chunk[1]
            if last is not None and follows and chunk[1] + chunk[2] - last[0][1] <= _LARGEST_RANGE:
                last.append(chunk)
            else:
                spans.append([chunk])
        found: list[Bytes] = [b""] * len(slots)
        bounds = [(span[0][1], span[-1][1] + span[-1][2]) for span in spans]
        for span, data in zip(spans, self._transport.ranges(self._key(shard), bounds) if bounds else [], strict=True):
            asked = span[-1][1] + span[-1][2] - span[0][1]
            if len(data) != asked:  # a file cut short, or a server without ranges: any slice of it would be wrong
                said = f"{len(data)} bytes came where {asked} were asked for"
                raise self._damaged(f"sample {shard * self.shard_size + slots[span[0][0]]}", shard, said)
            view = memoryview(data)
            for position, offset, length in span:
                found[position] = view[offset - span[0][1] : offset - span[0][1] + length]
        return found

    def sample(self, index: int) -> npt.NDArray[Any]:
        """Read one sample by its index in the array.

        Raises:
            MissingFileError: its shard has no object.
            IntegrityError: it is damaged.
            StorageError: the storage refused.
        """
        shard, slot = divmod(index, self.shard_size)
        return self.decode(self.read(shard, [slot])[0], index)

    def decode(self, chunk: Bytes, index: int) -> npt.NDArray[Any]:
        """Decode a chunk of :meth:`read` to an array of :attr:`shape`.

        Args:
            chunk: the chunk.
            index: of its sample in the array, for the message.

        Raises:
            IntegrityError: the chunk is damaged: it has not the CRC-32C that it ends in, or cannot be decoded.
        """
        if not len(chunk):
            return np.zeros(self.shape, self.dtype)
        data = bytes(chunk[:-_CRC_BYTES] if self._checksums else chunk)
        if self._checksums and google_crc32c.value(data) != int.from_bytes(chunk[-_CRC_BYTES:], "little"):
            raise self._damaged(f"sample {index}", index // self.shard_size, "its checksum is another")
        try:
            values: npt.NDArray[Any] = np.asarray(self._decoder(data)).reshape(-1).view(self.dtype)
            return values.reshape(self.shape)
        except (RuntimeError, ValueError) as error:
            raise self._damaged(f"sample {index}", index // self.shard_size, str(error)) from error

    def _read_index(self, shard: int) -> list[tuple[int, int]]:
        length = 16 * self.shard_size
        try:
            data = bytes(self._transport.tail(self._key(shard), length + _CRC_BYTES))
        except MissingFileError:
            if not self._is_blank(shard):
                raise
            return [(0, 0)] * self.shard_size
        checksum = int.from_bytes(data[length:], "little")
        if len(data) != length + _CRC_BYTES or google_crc32c.value(data[:length]) != checksum:
            raise self._damaged("the index", shard, "its checksum is another")
        pairs = np.frombuffer(data, "<u8", count=2 * self.shard_size).reshape(-1, 2).tolist()
        return [(0, 0) if offset == _ABSENT else (offset, size) for offset, size in pairs]

    def _is_blank(self, shard: int) -> bool:
        """Tell whether all samples of a shard were zero, for which no object is written; its commit names none then."""
        facts = facts_of(read_table(object_location(self._dataset, "samples", shard), ["index"]))
        return f"{self._name}_sha256" not in facts

    def _damaged(self, what: str, shard: int, why: str) -> IntegrityError:
        return IntegrityError(
            f"{self._dataset.url}: {what} of shard {shard} in {self._name}/ is damaged ({why}). Make that shard again "
            f"with `aura verify {self._dataset.url} --repair`; if that finds nothing, the bytes were spoilt on their "
            "way here."
        )

    def _key(self, shard: int) -> str:
        return "/".join([self._name, "c", str(shard), *("0" for _ in self.shape)])


def open_samples(dataset: Dataset, name: str) -> SampleChunks:
    """Open an array of a dataset, ``raw`` or ``srgb``, for reading samples one by one.

    Raises:
        MissingFileError: there is no such array.
        IntegrityError: its metadata are damaged.
        StorageError: the storage refused.
    """
    return SampleChunks(dataset.location, name, open_transport(dataset.location))


def _metadata(place: Location) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(place.join("zarr.json").read())
    except ValueError as error:
        raise IntegrityError(f"{place.url}/zarr.json is damaged. Restore that file.") from error
    return document


def _sharding(metadata: dict[str, Any], url: str) -> dict[str, Any]:
    """Return the configuration of the sharding codec, if samples lie in the one way that is read here."""
    codecs = metadata.get("codecs", [])
    inner: dict[str, Any] = codecs[0].get("configuration", {}) if codecs else {}
    shape = metadata.get("shape", [])
    whole_samples = inner.get("chunk_shape") == [1, *shape[1:]]
    index_codecs = [codec["name"] for codec in inner.get("index_codecs", [])]
    at_end = inner.get("index_location", "end") == "end"
    if not whole_samples or len(codecs) != 1 or index_codecs != ["bytes", "crc32c"] or not at_end:
        raise IntegrityError(f"{url} is not laid out as one chunk a sample in shards. Read it with zarr itself.")
    return inner


def _decoder(codecs: list[dict[str, Any]], url: str) -> Callable[[bytes], Any]:
    names = [codec["name"] for codec in codecs]
    if names == ["numcodecs.pcodec"]:
        return PCodec().decode  # type: ignore[no-any-return]  # numcodecs has no types
    if names == ["bytes", "blosc"] and codecs[0].get("configuration", {}).get("endian", "little") == "little":
        return _decode_blosc
    raise InvalidInputError(f"{url} is compressed by {', '.join(names)}, which is not known here. Read it with zarr.")


def _decode_blosc(chunk: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(numcodecs.blosc.decompress(chunk), np.uint8)
