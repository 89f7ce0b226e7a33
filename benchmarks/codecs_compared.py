"""Bits per pixel and decoding speed of the codecs a dataset can have, and of lossless-JPEG DNG of the same frames."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pcodec.standalone
from numcodecs import Blosc, blosc
from peer_formats import Record
from rich.console import Console

from aura.dng import write_dng


def figure_of(values: Sequence[float], unit: str) -> dict[str, Any]:
    """Median and range, rounded."""
    digits = 4 if unit == "ratio" else 1
    low, high = round(min(values), digits), round(max(values), digits)
    return {"value": round(statistics.median(values), digits), "unit": unit, "spread": [low, high]}


def codec_figures(
    samples: Sequence[Record], rows: Sequence[dict[str, Any]], console: Console
) -> dict[str, dict[str, Any]]:
    """Bits per pixel and decoding speed of one thread, of every codec, on some of the samples; and DNG's size."""
    blosc.use_threads = False
    chosen = list(zip(samples, rows, strict=True))[:: max(1, len(samples) // 32)]
    frames = [np.ascontiguousarray(sample["raw"]) for sample, _ in chosen]
    pixels = sum(frame.size for frame in frames)
    zstd, lz4 = Blosc("zstd", 3, Blosc.BITSHUFFLE), Blosc("lz4", 5, Blosc.BITSHUFFLE)
    level = pcodec.ChunkConfig(compression_level=8)
    codecs: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
        "pcodec": (lambda frame: pcodec.standalone.simple_compress(frame.ravel(), level), _depcodec),
        "zstd": (zstd.encode, zstd.decode),
        "lz4": (lz4.encode, lz4.decode),
    }
    figures: dict[str, dict[str, Any]] = {}
    for name, (encode, decode) in codecs.items():
        encoded = [encode(frame) for frame in frames]
        speeds = []
        for _ in range(5):
            begun = time.process_time()
            for one in encoded:
                decode(one)
            speeds.append(2 * pixels / (time.process_time() - begun) / 1e6)
        bits = 8 * sum(map(len, encoded)) / pixels
        figures[f"codec/{name}/bits_per_pixel"] = {"value": round(bits, 3), "unit": "bits", "spread": None}
        figures[f"codec/{name}/decoded_mb_per_cpu_second"] = figure_of(speeds, "MB/s")
        console.print(f"{name:8} {bits:6.3f} bits a pixel, {statistics.median(speeds):5.0f} MB/s a core", style="dim")
    dng = 8 * sum(_dng_bytes(sample, row) for sample, row in chosen) / pixels
    figures["bits_per_pixel"] = figures["codec/pcodec/bits_per_pixel"]
    figures["dng_bits_per_pixel"] = {"value": round(dng, 3), "unit": "bits", "spread": None}
    console.print(f"DNG      {dng:6.3f} bits a pixel (lossless JPEG)", style="dim")
    return figures


def _depcodec(data: bytes) -> Any:
    return pcodec.standalone.simple_decompress(data)


def _dng_bytes(sample: Record, row: dict[str, Any]) -> int:
    target = io.BytesIO()
    neutral = tuple(1 / gain for gain in row["wb_gains"])
    write_dng(
        target,
        sample["raw"],
        cfa_pattern=row["cfa_pattern"],
        black_level=row["black_level_dn"],
        white_level=row["white_level_dn"],
        color_matrix=np.eye(3),
        as_shot_neutral=(neutral[0], neutral[1], neutral[2]),
        camera_model=row["camera"],
    )
    return len(target.getvalue())
