"""Judging weights: AURA beside the classical inverses, on real RAW files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from aura.reconstruct import Reconstructor
from aura.training.development import DeveloperName, LeftOutPair, available_developers
from aura.training.evaluation import Evaluation, EvaluationRow, Method, canonical_by, evaluate
from aura.training.raw_files import list_raw_files
from aura.unprocess import linearise, upi

CLASSICAL: Final[dict[str, Method]] = {"linearise": canonical_by(linearise), "upi": canonical_by(upi)}


def measure_weights(
    weights: Path | None,
    folder: Path,
    developers: Sequence[DeveloperName],
    crop: int | None,
    cache: Path | None,
    on_row: Callable[[EvaluationRow | LeftOutPair], None],
) -> Evaluation:
    """Measure weights beside the classical inverses on real RAW files.

    Args:
        weights: of AURA; None for the released ones.
        folder: RAW files.
        developers: who develops each file to a photograph; empty for all that are installed.
        crop: side of a centre crop in pixels; None for whole images.
        cache: folder for developed photographs, or None to develop them anew.
        on_row: called with each pair and method as soon as it is measured, or left out.

    Raises:
        AuraError: no RAW files, no such weights, or a developer that is not installed.
    """
    methods = CLASSICAL | networks(weights)
    files, wanted = list_raw_files(folder), list(developers) or available_developers()
    return evaluate(methods, files, wanted, crop=crop, cache_folder=cache, on_row=on_row)


def networks(weights: Path | None) -> dict[str, Method]:
    """AURA, and its global map alone, by name."""
    whole, its_map = Reconstructor.load("aura", weights), Reconstructor.load("aura_global", weights)
    return {"aura_global": lambda image: its_map.canonical(image)[0], "aura": lambda image: whole.canonical(image)[0]}
