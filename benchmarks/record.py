"""What every benchmark writes: one JSON file that the README quotes."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aura.reconstruct import RELEASED_WEIGHTS

RESULTS = Path(__file__).parent / "results"


def write_result(
    name: str, protocol: str, figures: Mapping[str, Mapping[str, Any]], distributions: tuple[str, ...], **more: Any
) -> Path:
    """Write ``results/NAME.json``: name, protocol in words, machine, versions, figures (value, unit, spread each).

    Args:
        name: of the benchmark.
        protocol: what was measured, and how.
        figures: by key.
        distributions: whose versions decide the figures.
        more: whatever else the benchmark wants to keep.
    """
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{name}.json"
    content = {
        "name": name,
        "protocol": protocol,
        "machine": _machine(),
        "versions": {"python": platform.python_version()} | {package: version(package) for package in distributions},
        "figures": figures,
        **more,
    }
    target.write_text(json.dumps(content, indent=1, sort_keys=False) + "\n")
    return target


def weights_sha256(weights: Path | None = None) -> str:
    """SHA-256 of the weights that were measured, the released ones if None: a result of others is known by it."""
    return hashlib.sha256((weights or RELEASED_WEIGHTS).read_bytes()).hexdigest()


def _machine() -> str:
    """Processor, cores that this process may use, and memory."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB"


def own_peak_memory() -> int:
    """KiB that this process has had at most; ``getrusage`` also counts what it was before it became this program."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
