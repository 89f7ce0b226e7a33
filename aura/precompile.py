"""Compile all loops ahead: ``python -m aura.precompile``, when a machine or a container image is installed.

Otherwise the first process that needs a loop compiles it, some twenty seconds in all; the machine code is then kept
beside the source.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np
import torch

from aura.cycle import cycle_quality
from aura.reconstruct import Reconstructor
from aura.rendering import FrameFacts, render_raw
from aura.sensor.catalog import load_profile
from aura.sensor.noise_draws import add_noise
from aura.sensor.simulate import draw_capture, simulate

_SIDE: Final = 64


def precompile() -> None:
    """Take a small photograph through everything that is compiled."""
    for method in ("aura_global", "aura"):
        rehearse(Reconstructor.load(method, device="cpu"))


def rehearse(inverse: Reconstructor) -> None:
    """Take a small photograph through all loops that an inverse on the CPU, the sensors and the measures have compiled.

    A process that computes in several threads does so first in one: each loop is then loaded, or compiled, once.
    """
    with torch.inference_mode():
        light = inverse.canonical(np.zeros((_SIDE, _SIDE, 3), np.uint8))[0]
        capture = draw_capture(load_profile("generic"), iso=100, seed=0)
        rendition = render_raw(simulate(light, capture), FrameFacts.of(capture))
        cycle_quality(torch.zeros_like(rendition.codes), rendition.codes, None)
        if capture.noise is not None:
            add_noise(torch.zeros(4, _SIDE // 2, _SIDE // 2), capture.noise, seed=0)


if __name__ == "__main__":
    started = time.perf_counter()
    precompile()
    print(f"Loops compiled in {time.perf_counter() - started:.1f} s")
