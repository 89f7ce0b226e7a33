"""The Zarr arrays of a dataset: how samples become chunks, and shards whole objects with fixed bytes."""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import BloscCodec
from zarr.codecs.numcodecs import PCodec
from zarr.core.buffer import Buffer
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from storage.recipe import Codec

RAW_DIMENSIONS: Final = ("sample", "plane", "y", "x")
SRGB_DIMENSIONS: Final = ("sample", "channel", "row", "column")


def encode_shard(array: npt.NDArray[Any], shard_size: int, codec: Codec, dimensions: tuple[str, ...]) -> bytes:
    """Encode a shard's samples as the one object that Zarr's sharding codec keeps for them.

    Args:
        array: ``[n, ...]`` with n up to ``shard_size``; samples that are all zero take no space.
        shard_size: samples per shard.
        codec: the recipe's codec.
        dimensions: dimension names of the array.

    Returns:
        The object's bytes, always the same for the same input; empty if every sample is zero.
    """
    store: dict[str, Buffer] = {}
    target = create_array(MemoryStore(store), "shard", array.shape, str(array.dtype), shard_size, codec, dimensions)
    target[:] = np.ascontiguousarray(array)  # pcodec takes memory order for index order
    key = "shard/c/" + "/".join("0" * array.ndim)
    return store[key].to_bytes() if key in store else b""


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
    # planes compress better than the mosaic; the levels were measured on Bayer planes
    itemsize = 2 if dtype == "uint16" else 1
    compression: dict[str, Any] = {
        "zstd": {"compressors": BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=itemsize)},
        "lz4": {"compressors": BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=itemsize)},
    }.get(codec) or _pcodec()
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
        return {"serializer": PCodec(level=8), "compressors": None}
