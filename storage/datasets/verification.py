"""Trust: what a dataset must hold, whether each byte of it is as it was written, and what lies there besides.

Every object has a digest somewhere else: shards in their samples table and in the versions, samples tables in the
versions and in themselves, index, plan and metadata in the manifest of their listing; documents and reports carry
their own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aura.errors import AuraError, IntegrityError, InvalidInputError, MissingFileError
from storage.datasets.dataset import OWN_NAMES, Dataset, object_location, parse_group, read_manifest
from storage.datasets.labels import labels_name
from storage.datasets.plan import shard_name
from storage.datasets.sealed import page_is_intact, unseal
from storage.datasets.versions import Version, list_versions, read_version
from storage.objects.location import Location, locate
from storage.objects.tables import decode_table, facts_of, is_intact

_READERS: Final = 8  # each holds one object in memory
_KINDS: Final = ("raw", "srgb", "rejects")
_OWN: Final = re.compile(
    r"(?:raw|srgb)/c/\d+(?:/0){3}|(?:plan|samples|rejects)/\d{8,}\.parquet|index/\w+\.parquet|labels/[0-9a-f]{64}\.parquet"
    r"|listings/\d{6}\.(?:json|parquet)|(?:versions|lease)/\d{6}\.json|tags/[^/]+\.json|reports/\d{6}\.html"
    r"|index\.parquet|(?:(?:raw|srgb)/)?zarr\.json"
)
"""Names that this program gives to what it writes; others may put their own files beside."""
_MANIFEST: Final = re.compile(r"listings/(\d{6})\.json")

Progress = Callable[[int, int], None]
"""Is called with the number of objects checked so far, and of those to check."""


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something that is not as it should be.

    Attributes:
        name: the object, within the dataset.
        what: what is wrong with it, in a few words.
        shard: the shard that has to be made again to mend it, or None.
        restorable: whether the manifest has a copy of it.
    """

    name: str
    what: str
    shard: int | None = None
    restorable: bool = False


@dataclass(frozen=True, slots=True)
class Survey:
    """What lies in a dataset, by its names and small documents.

    Attributes:
        dataset: the dataset, as its manifest says.
        digests: SHA-256 that an object must have, by name; empty where it carries its own.
        versions: the published versions that can be read.
        sizes: bytes of every object there is, by name.
        leftovers: objects that a stopped run left and nothing needs.
        resumable: objects of a listing that a stopped run goes on with.
        unreadable: documents that are damaged or gone and would say what else is needed.
        problems: what was seen to be wrong so far.
    """

    dataset: Dataset
    digests: Mapping[str, str]
    versions: tuple[Version, ...]
    sizes: Mapping[str, int]
    leftovers: tuple[str, ...]
    resumable: frozenset[str]
    unreadable: tuple[str, ...]
    problems: tuple[Problem, ...]


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


@dataclass(slots=True)
class _Found:
    digests: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    resumable: set[str] = field(default_factory=set)
    unreadable: list[str] = field(default_factory=list)


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
    total = len(digests) + len(_KINDS) * len(tables)
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
            digests |= {_name(root, kind, shard): digest for kind, digest in wanted.items()}
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


def survey(dataset_url: str | Location) -> Survey:
    """Find out what a dataset must hold and what lies there, without reading the samples.

    Raises:
        MissingFileError: there is no dataset.
        IntegrityError: its manifest cannot be read.
        StorageError: the storage refused.
    """
    root = locate(dataset_url)
    root.check_reachable()
    sizes = _sizes(root)
    if "zarr.json" not in sizes and not any(name.startswith("listings/") for name in sizes):
        raise MissingFileError(
            f"{root.url} holds no dataset (no zarr.json). Check the path, or make one with `aura synthesize`."
        )
    found = _Found()
    dataset = _survey_listings(root, sizes, found)
    versions = tuple(_survey_documents(root, sizes, found))
    found.digests.update({labels_name(version.labels): version.labels for version in versions if version.labels})
    committed = set(dataset.committed_shards())
    for shard in sorted(committed | {shard.shard for version in versions for shard in version.shards}):
        if shard < dataset.shard_count:
            found.digests[f"samples/{shard_name(shard)}"] = ""
    uncommitted = (_name(root, kind, shard) for shard in set(range(dataset.shard_count)) - committed for kind in _KINDS)
    leftovers = {name for name in sizes if _is_part(name)} | (sizes.keys() & set(uncommitted))
    resumable = found.resumable | {name for name in sizes if name.startswith("index/")}
    return Survey(
        dataset=dataset,
        digests=found.digests,
        versions=versions,
        sizes=sizes,
        leftovers=tuple(sorted(leftovers)),
        resumable=frozenset(resumable) - leftovers,
        unreadable=tuple(found.unreadable),
        problems=tuple(found.problems),
    )


def find_garbage(seen: Survey) -> tuple[str, ...]:
    """Name what may be removed: what a stopped run left, and objects of this program that no version needs.

    Whatever a committed shard, a version or a run that goes on needs is kept, and so is what this program never wrote.

    Raises:
        IntegrityError: a document is damaged or gone that would say what is needed, the plan or labels for example.
    """
    if seen.unreadable:
        raise IntegrityError(
            f"{seen.dataset.location.url}/{seen.unreadable[0]} is damaged or gone, so that nobody can tell what is not "
            "needed any more. Restore it from a copy first."
        )
    root, dataset = seen.dataset.location, seen.dataset
    shards = {_name(root, kind, shard) for shard in dataset.committed_shards() for kind in _KINDS}
    shards |= {_name(root, kind, each.shard) for version in seen.versions for each in version.shards for kind in _KINDS}
    strays = seen.sizes.keys() - seen.digests.keys() - shards - seen.resumable
    ours = (name for name in strays if _OWN.fullmatch(name) or _is_part(name))
    return tuple(sorted(name for name in ours if name.split("/", 1)[0] in OWN_NAMES))


def remove_garbage(dataset_url: str | Location, names: Sequence[str], permit: Callable[[], None]) -> None:
    """Remove objects; only who holds the dataset's lease may.

    Args:
        dataset_url: where the dataset lies.
        names: what :func:`find_garbage` named.
        permit: is called before each removal and raises if this may not go on.

    Raises:
        StorageError: the storage refused.
    """
    for name in names:
        permit()
        locate(dataset_url).join(name).remove()


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


def _survey_listings(root: Location, sizes: Mapping[str, int], found: _Found) -> Dataset:
    """Read the manifests; the newest that the group's metadata agree with says what the dataset is."""
    numbers = sorted(int(named[1]) for name in sizes if (named := _MANIFEST.fullmatch(name)))
    manifests = {}
    for number in numbers:
        name = f"listings/{number:06d}.json"
        found.digests[name] = ""
        try:
            manifests[number] = read_manifest(root, number)
        except IntegrityError:  # reported when it is read as a document
            found.unreadable.append(name)
    if not manifests:
        raise IntegrityError(f"{root.url}/listings holds no manifest that can be read. Restore it from a copy.")
    try:
        written = root.join("zarr.json").read()
    except MissingFileError:
        written = b""
    agreeing = [number for number, each in manifests.items() if each["documents"]["zarr.json"].encode() == written]
    lost = None if agreeing else _group_without_manifest(root, written, max(manifests))
    current = max(agreeing, default=max(manifests)) if lost is None else lost.listings
    gone = [f"listings/{number:06d}.json" for number in sorted(set(range(1, current + 1)) - set(numbers))]
    found.problems += [Problem(name, "is missing, while the dataset has that listing") for name in gone]
    found.unreadable += gone
    documents = {} if lost is not None else manifests[current]["documents"]
    dataset = lost or parse_group(root, documents["zarr.json"].encode())
    for number, manifest in manifests.items():
        if number <= current:
            found.digests.update(manifest["objects"])
        else:  # a growth that was stopped
            found.resumable |= {*manifest["objects"], f"listings/{number:06d}.json"}
            found.digests.pop(f"listings/{number:06d}.json")
    found.resumable |= {f"listings/{current + 1:06d}.parquet"}
    for name, document in documents.items():
        found.digests[name] = hashlib.sha256(document.encode()).hexdigest()
    if not documents:  # whether they are as they were written nobody can tell
        found.resumable |= {name for name in sizes if name == "zarr.json" or name.endswith("/zarr.json")}
    if not agreeing:
        found.unreadable.append("zarr.json" if lost is None else f"listings/{current:06d}.json")
    return dataset


def _group_without_manifest(root: Location, written: bytes, newest: int) -> Dataset | None:
    """Read a group whose listing is newer than every manifest that can be read: an older one must not replace it."""
    with suppress(AuraError):
        dataset = parse_group(root, written)
        return dataset if dataset.listings > newest else None
    return None


def _survey_documents(root: Location, sizes: Mapping[str, int], found: _Found) -> Iterable[Version]:
    """Expect the documents that carry their own digest, and read the versions."""
    for name in sizes:
        folder = name.split("/", 1)[0]
        if folder in {"versions", "tags", "lease"} and name.endswith(".json"):
            found.digests[name] = ""
        if folder == "reports" and name.endswith(".html"):
            found.digests[name] = ""
    numbers = list_versions(root)
    for number in sorted(set(range(1, max(numbers, default=0) + 1)) - set(numbers)):
        found.problems.append(Problem(f"versions/{number:06d}.json", "is missing, while later versions are there"))
        found.unreadable.append(f"versions/{number:06d}.json")
    for number in numbers:
        try:
            yield read_version(root, number)
        except IntegrityError:  # reported when it is read as a document
            found.unreadable.append(f"versions/{number:06d}.json")


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
    wanted = {kind: facts[f"{kind}_sha256"] for kind in _KINDS if f"{kind}_sha256" in facts}
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


def _name(root: Location, kind: str, shard: int) -> str:
    return object_location(root, kind, shard).url.removeprefix(f"{root.url}/")


def _is_part(name: str) -> bool:
    last = name.rsplit("/", 1)[-1]
    return last.startswith(".") and last.endswith(".part")


def _sizes(root: Location) -> dict[str, int]:
    """List every object below, hidden ones included, by name."""
    if root.is_local:
        folder = Path(root.url)
        return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    prefix = f"{root.url}/"
    with suppress(MissingFileError):
        return {entry.uri.removeprefix(prefix): entry.size for entry in root.stream()}
    return {}
