"""The Zarr arrays of a dataset: how samples become chunks, and shards whole objects with fixed bytes."""

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
from zarr.codecs import BloscCodec
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


def encode_shard(array: npt.NDArray[Any], shard_size: int, codec: Codec) -> bytes:
    """Encode a shard's samples as the one object that Zarr's sharding codec keeps for them.

    Args:
        array: ``[n, ...]`` with n up to ``shard_size``; samples that are all zero take no space.
        shard_size: samples per shard.
        codec: the recipe's codec.

    Returns:
        The object's bytes, always the same for the same input; empty if every sample is zero.
    """
    return join_chunks([encode_chunk(sample, codec) for sample in array], shard_size)


def encode_chunk(sample: npt.NDArray[Any], codec: Codec) -> bytes:
    """Encode one sample as the chunk that arrays of :func:`create_array` hold; empty if all of it is zero.

    The same bytes as Zarr's own writing of the array; a sample can so be encoded as soon as it is made.
    """
    if not sample.any():
        return b""
    # pcodec takes memory order for index order
    return bytes(_encoder(codec, sample.dtype.itemsize).encode(np.ascontiguousarray(sample)))


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
    return b"".join([*chunks, entries, google_crc32c.value(entries).to_bytes(4, "little")])


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
    """
    itemsize = 2 if dtype == "uint16" else 1
    compression: dict[str, Any] = _pcodec() if codec == "pcodec" else {"compressors": _blosc(codec, itemsize)}
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
            **compression,
        )


def _pcodec() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        return {"serializer": PCodec(level=_PCODEC_LEVEL), "compressors": None}


def _blosc(codec: Codec, itemsize: int) -> BloscCodec:
    name, level, shuffle = _BLOSC[codec, itemsize]
    return BloscCodec(cname=name, clevel=level, shuffle=shuffle, typesize=itemsize)
