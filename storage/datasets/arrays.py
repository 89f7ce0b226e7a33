"""The Zarr arrays of a dataset: how samples become chunks, and shards whole objects with fixed bytes.

A chunk ends in the CRC-32C of its compressed bytes, by Zarr v3's own codec
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/crc32c): a flipped bit is an error for every reader, where most
decompressors give other pixels for it. Arrays of datasets that were begun without it stay so.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final, Literal

import google_crc32c
import numcodecs.blosc
import numcodecs.pcodec
import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.codecs.numcodecs import PCodec
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from storage.recipe import Codec

RAW_DIMENSIONS: Final = ("sample", "plane", "y", "x")
SRGB_DIMENSIONS: Final = ("sample", "channel", "row", "column")
_NO_CHUNK: Final = 2**64 - 1
_PCODEC_LEVEL: Final = 8
# planes compress better than the mosaic. Of photographs, ISO 100 to 6400: 8-bit sRGB takes less room and half the time
# at level 1 than at 3; Bayer planes do not
_BLOSC: Final[dict[tuple[str, int], tuple[Literal["zstd", "lz4"], int, Literal["bitshuffle"]]]] = {
    ("zstd", 2): ("zstd", 3, "bitshuffle"),
    ("zstd", 1): ("zstd", 1, "bitshuffle"),
    ("lz4", 2): ("lz4", 5, "bitshuffle"),
    ("lz4", 1): ("lz4", 5, "bitshuffle"),
}


def encode_shard(array: npt.NDArray[Any], shard_size: int, codec: Codec, *, checksums: bool) -> bytes:
    """Encode a shard's samples as the one object that Zarr's sharding codec keeps for them.

    Args:
        array: ``[n, ...]`` with n up to ``shard_size``; samples that are all zero take no space.
        shard_size: samples per shard.
        codec: the recipe's codec.
        checksums: whether each chunk ends in its CRC-32C.

    Returns:
        The object's bytes, always the same for the same input; empty if every sample is zero.
    """
    return join_chunks([encode_chunk(sample, codec, checksums=checksums) for sample in array], shard_size)


def encode_chunk(sample: npt.NDArray[Any], codec: Codec, *, checksums: bool) -> bytes:
    """Encode one sample as the chunk that arrays of :func:`create_array` hold; empty if all of it is zero.

    The same bytes as Zarr's own writing of the array; a sample can so be encoded as soon as it is made.
    """
    if not sample.any():
        return b""
    # pcodec takes memory order for index order
    data = bytes(_encoder(codec, sample.dtype.itemsize).encode(np.ascontiguousarray(sample)))
    return data + _crc32c(data) if checksums else data


def join_chunks(chunks: Sequence[bytes], shard_size: int) -> bytes:
    """Lay a shard's chunks into the one object of Zarr v3's sharding codec: the chunks, their index, its CRC-32C.

    Args:
        chunks: one for each sample from the first on; empty where there is none.
        shard_size: samples per shard, at least as many.

    Returns:
        The object's bytes; empty without any chunk.
    """
    if not any(chunks):
        return b""
    index = np.full((shard_size, 2), _NO_CHUNK, dtype="<u8")
    offset = 0
    for position, chunk in enumerate(chunks):
        if chunk:
            index[position] = offset, len(chunk)
            offset += len(chunk)
    entries = index.tobytes()
    return b"".join([*chunks, entries, _crc32c(entries)])


def _crc32c(data: bytes) -> bytes:
    checksum: bytes = google_crc32c.value(data).to_bytes(4, "little")
    return checksum


def srgb_codec(codec: Codec) -> Codec:
    """Codec of the source pixels beside RAW of a codec: pcodec takes no 8-bit integers."""
    return "zstd" if codec == "pcodec" else codec


def _encoder(codec: Codec, itemsize: int) -> Any:
    if codec == "pcodec":
        return numcodecs.pcodec.PCodec(level=_PCODEC_LEVEL)
    name, level, _ = _BLOSC[codec, itemsize]
    return numcodecs.blosc.Blosc(name, level, numcodecs.blosc.BITSHUFFLE)


def create_array(
    store: MemoryStore,
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    shard_size: int,
    codec: Codec,
    dimensions: tuple[str, ...],
    *,
    checksums: bool,
) -> zarr.Array[Any]:
    """Make a sharded array: a chunk for each sample, an object for each shard.

    Args:
        store: where.
        name: of the array.
        shape: all samples first.
        dtype: ``uint16`` or ``uint8``.
        shard_size: samples per shard.
        codec: the recipe's codec; pcodec takes no 8-bit integers.
        dimensions: names of the dimensions.
        checksums: whether each chunk ends in its CRC-32C.
    """
    itemsize = 2 if dtype == "uint16" else 1
    serializer: dict[str, Any] = {"serializer": _pcodec()} if codec == "pcodec" else {}
    compressors = [] if codec == "pcodec" else [_blosc(codec, itemsize)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)  # pcodec is outside the Zarr specification, as documented
        return zarr.create_array(
            store,
            name=name,
            shape=shape,
            chunks=(1, *shape[1:]),
            shards=(shard_size, *shape[1:]),
            dtype=dtype,
            fill_value=0,
            dimension_names=dimensions,
            compressors=[*compressors, *([Crc32cCodec()] if checksums else [])] or None,
            **serializer,
        )


def _pcodec() -> PCodec:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        return PCodec(level=_PCODEC_LEVEL)


def _blosc(codec: Codec, itemsize: int) -> BloscCodec:
    name, level, shuffle = _BLOSC[codec, itemsize]
    return BloscCodec(cname=name, clevel=level, shuffle=shuffle, typesize=itemsize)
