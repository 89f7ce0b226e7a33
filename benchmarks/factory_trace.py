"""Which thread is at which stage, when: the spans of a run of shards, and their picture."""

from __future__ import annotations

import functools
import pkgutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from unittest import mock

from matplotlib.figure import Figure

STAGES: Final = {
    "fetch": ("flows.shards.shard.read_source",),
    "decode": ("flows.shards.shard.decode",),
    "network": ("aura.reconstruct.Reconstructor.begin_batch", "aura.inversion.NetworkInversion.lights"),
    "sensor and noise": ("flows.shards.sample.simulate_batch",),
    "render": ("flows.shards.sample.render_raw_batch",),
    "metrics": ("flows.shards.sample.cycle_quality_batch",),
    "encode": ("flows.shards.shard.encode_sample",),
    "commit": ("flows.shards.shard.write_objects",),
}
COLOURS: Final = dict(
    zip(STAGES, ("#9ecae1", "#3182bd", "#d95f0e", "#31a354", "#a1d99b", "#756bb1", "#636363", "#e377c2"), strict=True)
)


@dataclass(frozen=True)
class Span:
    """One piece of work.

    Attributes:
        stage: what.
        thread: who, such as ``compute_1``.
        start: wall clock seconds.
        stop: likewise.
        cpu: CPU seconds of the thread.
    """

    stage: str
    thread: str
    start: float
    stop: float
    cpu: float


@contextmanager
def traced() -> Iterator[list[Span]]:
    """Record every stage of the shards that are made within the block."""
    spans: list[Span] = []
    with ExitStack() as patches:
        for stage, names in STAGES.items():
            for name in names:
                patches.enter_context(mock.patch(name, _recording(pkgutil.resolve_name(name), stage, spans)))
        yield spans


def _recording(work: Callable[..., Any], stage: str, spans: list[Span]) -> Callable[..., Any]:
    @functools.wraps(work)
    def recorded(*arguments: Any, **options: Any) -> Any:
        start, cpu = time.perf_counter(), time.thread_time()
        try:
            return work(*arguments, **options)
        finally:
            span = Span(stage, threading.current_thread().name, start, time.perf_counter(), time.thread_time() - cpu)
            spans.append(span)

    return recorded


def stage_shares(spans: list[Span]) -> dict[str, float]:
    """Share of each stage in the CPU seconds of all."""
    total = sum(span.cpu for span in spans)
    return {stage: sum(span.cpu for span in spans if span.stage == stage) / total for stage in STAGES}


def draw_trace(spans: list[Span], wall: float, target: Path) -> None:
    """Draw the threads over time, each stage in its colour."""
    first = min(span.start for span in spans)
    threads = _rows(spans)
    figure = Figure(figsize=(11, 0.5 * len(threads) + 1.6), layout="constrained")
    axes = figure.subplots()
    for stage, colour in COLOURS.items():
        for row, names in enumerate(threads.values()):
            bars = [
                (span.start - first, span.stop - span.start)
                for span in spans
                if span.stage == stage and span.thread in names
            ]
            axes.broken_barh(bars, (row - 0.4, 0.8), color=colour, label=stage if row == 0 else None)
    axes.set_yticks(range(len(threads)), list(threads))
    axes.invert_yaxis()
    axes.set_xlim(0, min(wall, 12.0))
    axes.set_xlabel("seconds")
    axes.set_title("Stages of the shards in hand over time, by thread", loc="left")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(STAGES), frameon=False)
    figure.savefig(target, dpi=110)


def _rows(spans: list[Span]) -> dict[str, set[str]]:
    """Name the rows: what computes for all shards first, then the threads of each shard in hand.

    Threads of later shards take the rows of those of the first; a shard's commit has a row whoever's thread it is.
    """
    rows: dict[str, set[str]] = {}
    for name in sorted({span.thread for span in spans}, key=lambda name: (not name.startswith("compute"), name)):
        rows.setdefault(name.replace("shard_", "commit ").replace("_", " "), set()).add(name)
    return rows
