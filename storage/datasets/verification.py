"""Trust: whether each byte of a dataset is as it was written.

Every object has a digest somewhere else: shards in their samples table and in the versions, samples tables in the
versions and in themselves, index, plan and metadata in the manifest of their listing; documents and reports carry
their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from aura.errors import IntegrityError, InvalidInputError, MissingFileError
from storage.datasets.dataset import Dataset
from storage.datasets.metadata import read_manifest
from storage.datasets.sealed import page_is_intact, unseal
from storage.datasets.survey import SHARD_KINDS, Problem, object_name, survey
from storage.objects.location import Location
from storage.objects.tables import decode_table, facts_of, is_intact

_READERS: Final = 8  # each holds one object in memory

Progress = Callable[[int, int], None]
"""Is called with the number of objects checked so far, and of those to check."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What :func:`verify` found.

    Attributes:
        dataset: the dataset.
        objects: number of objects that were read.
        size_bytes: their bytes.
        problems: what is wrong, by name.
        leftovers: objects that a stopped run left; harmless, and removed by a collection.
        missing_shards: number of planned shards that are not made yet.
    """

    dataset: Dataset
    objects: int
    size_bytes: int
    problems: tuple[Problem, ...]
    leftovers: tuple[str, ...]
    missing_shards: int


def verify(dataset_url: str | Location, on_progress: Progress | None = None) -> Verification:
    """Read every object of a dataset and compare it with what was written; changes nothing.

    Args:
        dataset_url: where the dataset lies.
        on_progress: is called after each object, from this thread.

    Raises:
        MissingFileError: there is no dataset.
        IntegrityError: it is so damaged that not even its manifest can be read.
        StorageError: the storage refused.
    """
    seen = survey(dataset_url)
    root = seen.dataset.location
    published = {shard.shard: shard.sha256 for version in seen.versions for shard in version.shards}
    digests = dict(seen.digests)
    tables = [name for name in digests if name.startswith("samples/")]
    problems = list(seen.problems)
    total = len(digests) + len(SHARD_KINDS) * len(tables)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done, max(done, total))

    with ThreadPoolExecutor(_READERS, thread_name_prefix="verify") as pool:
        # the tables first: they say what the other objects of their shard are
        for shard, wanted, found in pool.map(lambda name: _check_table(seen.dataset, name, published), tables):
            problems += found
            digests |= {object_name(root, kind, shard): digest for kind, digest in wanted.items()}
            step()
        others = [name for name in digests if name not in tables]
        total = len(digests)
        for problem in pool.map(lambda name: _check(root, name, digests[name]), others):
            problems += [problem] if problem is not None else []
            step()
    strays = seen.sizes.keys() - digests.keys() - set(seen.leftovers) - seen.resumable
    problems += [Problem(name, "belongs to nothing in the dataset") for name in strays]
    return Verification(
        dataset=seen.dataset,
        objects=len(digests),
        size_bytes=sum(seen.sizes.get(name, 0) for name in digests),
        problems=tuple(sorted(set(problems), key=lambda problem: (problem.name, problem.what))),
        leftovers=seen.leftovers,
        missing_shards=len(seen.dataset.missing_shards()),
    )


def restore(seen: Verification) -> list[str]:
    """Write metadata again that the manifest has a copy of; the coordinator's job alone.

    Returns:
        The names of what was written.

    Raises:
        StorageError: the storage refused.
    """
    root = seen.dataset.location
    damaged = [problem.name for problem in seen.problems if problem.restorable]
    documents = read_manifest(root, seen.dataset.listings)["documents"] if damaged else {}
    names = [name for name in damaged if name in documents]
    for name in names:
        root.join(name).write(documents[name].encode())
    return names


def _check_table(
    dataset: Dataset, name: str, published: Mapping[int, Mapping[str, str]]
) -> tuple[int, dict[str, str], list[Problem]]:
    """Check a samples table; tells what digests the other objects of its shard must have."""
    shard = int(name.split("/")[1].split(".", maxsplit=1)[0])
    wanted = {kind: digest for kind, digest in published.get(shard, {}).items() if kind != "samples"}
    try:
        data = dataset.location.join(name).read()
    except MissingFileError:
        return shard, wanted, [Problem(name, "is missing", shard)]
    digest = published.get(shard, {}).get("samples")
    intact = is_intact(data) and (digest is None or hashlib.sha256(data).hexdigest() == digest)
    if not intact:
        return shard, wanted, [Problem(name, "has other bytes than were written", shard)]
    table = decode_table(data, name, ["index"])
    facts = facts_of(table)
    wanted = {kind: facts[f"{kind}_sha256"] for kind in SHARD_KINDS if f"{kind}_sha256" in facts}
    problems = _check_counts(dataset, shard, name, table["index"].to_pylist(), int(facts["rejects"]))
    return shard, wanted, problems


def _check_counts(dataset: Dataset, shard: int, name: str, indexes: list[int], rejects: int) -> list[Problem]:
    try:
        start, stop = dataset.shard_bounds(shard)
    except InvalidInputError:
        return [Problem(name, "is of a shard that was never planned")]
    if len(indexes) + rejects != stop - start or len(set(indexes)) != len(indexes):
        said = f"has {len(indexes)} samples and {rejects} rejects where {stop - start} were planned"
        return [Problem(name, said, shard)]
    if any(not start <= index < stop for index in indexes):
        return [Problem(name, "has samples of other shards", shard)]
    return []


def _check(root: Location, name: str, digest: str) -> Problem | None:
    shard = _shard_of(name)
    metadata = name == "zarr.json" or name.endswith("/zarr.json")
    try:
        data = root.join(name).read()
    except MissingFileError:
        if name.startswith("lease/"):  # a run has ended meanwhile
            return None
        return Problem(name, "is missing", shard, metadata)
    if digest:
        intact = hashlib.sha256(data).hexdigest() == digest
    elif name.startswith("reports/"):
        intact = page_is_intact(data)
    else:
        intact = _is_sealed(data, name)
    return None if intact else Problem(name, "has other bytes than were written", shard, metadata)


def _is_sealed(data: bytes, name: str) -> bool:
    try:
        unseal(data, name)
    except IntegrityError:
        return False
    return True


def _shard_of(name: str) -> int | None:
    kind, _, rest = name.partition("/")
    if kind in {"raw", "srgb"} and rest.startswith("c/"):
        return int(rest.split("/")[1])
    if kind == "rejects":
        return int(rest.split(".")[0])
    return None
