"""Lossless JPEG (ITU-T T.81, process 14) of mosaics, in the dialect all readers of DNG share.

That is predictor 1 over two interleaved components of half the width, with one Huffman table fitted to the mosaic.
"""

from __future__ import annotations

import heapq
import struct

import numpy as np


def encode_lossless_jpeg(mosaic: np.ndarray) -> bytes:
    """Encode a mosaic as lossless JPEG: 16 bits, predictor 1, even and odd columns as two components (ITU-T T.81, H).

    Args:
        mosaic: ``(H, W)`` uint16, W even, both sides at most 65535.

    Returns:
        A JPEG stream from SOI to EOI with one Huffman table fitted to this mosaic.
    """
    height, width = mosaic.shape
    category, extra = _categories(_differences(mosaic))
    lengths = _code_lengths(np.bincount(category, minlength=17))
    order = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
    codes = _canonical_codes(order)
    counts = np.bincount([length for length, _ in order], minlength=17)[1:]
    table = bytes(counts.astype(np.uint8)) + bytes(symbol for _, symbol in order)
    extra_bits = np.where(category == 16, 0, category)  # category 16 holds one value only
    value = (codes[category] << extra_bits) | extra
    return b"".join(
        [
            b"\xff\xd8",
            b"\xff\xc3" + struct.pack(">HBHHB", 14, 16, height, width // 2, 2) + bytes((0, 0x11, 0, 1, 0x11, 0)),
            b"\xff\xc4" + struct.pack(">HB", 3 + len(table), 0) + table,
            b"\xff\xda" + struct.pack(">HB", 10, 2) + bytes((0, 0, 1, 0, 1, 0, 0)),
            _pack_bits(value, np.asarray(lengths)[category] + extra_bits).replace(b"\xff", b"\xff\x00"),
            b"\xff\xd9",
        ]
    )


def _differences(mosaic: np.ndarray) -> np.ndarray:
    """Each sample less its prediction, in stream order: left neighbour, at the left edge the upper, first 2^15."""
    samples = mosaic.astype(np.int32)
    prediction = np.empty_like(samples)
    prediction[:, 2:] = samples[:, :-2]
    prediction[1:, :2] = samples[:-1, :2]
    prediction[0, :2] = 1 << 15
    return (samples - prediction).ravel()


def _categories(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split differences modulo 2^16 into T.81's category and the bits that follow its code."""
    difference = ((difference + 32767) & 0xFFFF) - 32767  # -32767 .. 32768, as T.81 table H.2 wants them
    magnitude = np.abs(difference)
    category = np.frexp(magnitude.astype(np.float64))[1].astype(np.int64)  # bits of the magnitude: exact in float64
    category[magnitude == 32768] = 16
    extra = np.where(difference < 0, difference + (1 << category) - 1, difference)
    extra[category == 16] = 0
    return category, extra.astype(np.int64)


def _code_lengths(counts: np.ndarray) -> list[int]:
    """Huffman code lengths of at most 16 bits, 0 for unused symbols, with the all-ones code left free (T.81, K.2)."""
    weights = {symbol: int(count) for symbol, count in enumerate(counts) if count}
    while True:
        lengths = _huffman_lengths(weights)
        if max(lengths) <= 16:
            return lengths
        weights = {symbol: weight // 2 + 1 for symbol, weight in weights.items()}


def _huffman_lengths(weights: dict[int, int]) -> list[int]:
    reserved = 17  # a symbol nobody sends, of no weight: it takes a longest code, and as the last of them all ones
    lengths = [0] * 18
    heap: list[tuple[int, int, tuple[int, ...]]] = [(weight, symbol, (symbol,)) for symbol, weight in weights.items()]
    heap.append((0, reserved, (reserved,)))
    heapq.heapify(heap)
    serial = len(lengths)
    while len(heap) > 1:
        (weight_a, _, symbols_a), (weight_b, _, symbols_b) = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in symbols_a + symbols_b:
            lengths[symbol] += 1
        heapq.heappush(heap, (weight_a + weight_b, serial, symbols_a + symbols_b))
        serial += 1
    return lengths[:reserved]


def _canonical_codes(order: list[tuple[int, int]]) -> np.ndarray:
    """Give the codes that a decoder rebuilds from the lengths alone (T.81, annex C), indexed by symbol."""
    codes = np.zeros(17, dtype=np.int64)
    code, previous = 0, order[0][0]
    for length, symbol in order:
        code <<= length - previous
        codes[symbol], previous = code, length
        code += 1
    return codes


def _pack_bits(value: np.ndarray, length: np.ndarray) -> bytes:
    """Concatenate bit strings of at most 31 bits, most significant first, filling the last byte with ones."""
    total = int(length.sum())
    filler = -total % 8
    value, length = np.append(value, (1 << filler) - 1), np.append(length, filler)
    end = np.cumsum(length)
    start = end - length
    word, offset = start >> 5, start & 31
    aligned = value.astype(np.uint64) << (64 - offset - length).astype(np.uint64)
    words = np.zeros(int(end[-1]) // 32 + 2)
    # bit strings never overlap, so a sum is an "or"; each sum stays under 2^32 and is exact in float64
    words[: word[-1] + 1] += np.bincount(word, weights=(aligned >> np.uint64(32)).astype(np.float64))
    words[1 : word[-1] + 2] += np.bincount(word, weights=(aligned & np.uint64(0xFFFFFFFF)).astype(np.float64))
    return words.astype(">u4").tobytes()[: (total + filler) // 8]
