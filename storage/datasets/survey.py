"""What lies in a dataset and what must, by its names and small documents, without reading the samples."""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from aura.errors import AuraError, IntegrityError, MissingFileError
from storage.datasets.dataset import Dataset, parse_group
from storage.datasets.labels import labels_name
from storage.datasets.layout import is_part, object_location
from storage.datasets.metadata import read_manifest
from storage.datasets.plan import shard_name
from storage.datasets.versions import Version, list_versions, read_version
from storage.objects.location import Location, locate

SHARD_KINDS: Final = ("raw", "srgb", "rejects")
"""Objects of a shard beside its table of samples, which names their digests."""

_MANIFEST: Final = re.compile(r"listings/(\d{6})\.json")


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


@dataclass(slots=True)
class _Found:
    digests: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    resumable: set[str] = field(default_factory=set)
    unreadable: list[str] = field(default_factory=list)


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
    uncommitted = (
        object_name(root, kind, shard) for shard in set(range(dataset.shard_count)) - committed for kind in SHARD_KINDS
    )
    leftovers = {name for name in sizes if is_part(name)} | (sizes.keys() & set(uncommitted))
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


def object_name(root: Location, kind: str, shard: int) -> str:
    """Return the name of a shard's object within the dataset."""
    return object_location(root, kind, shard).url.removeprefix(f"{root.url}/")


def _sizes(root: Location) -> dict[str, int]:
    """List every object below, hidden ones included, by name."""
    if root.is_local:
        folder = Path(root.url)
        return dict(_local_sizes(folder))
    prefix = f"{root.url}/"
    with suppress(MissingFileError):
        return {entry.uri.removeprefix(prefix): entry.size for entry in root.stream()}
    return {}


def _local_sizes(folder: Path) -> Iterator[tuple[str, int]]:
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a run that is on has renamed or removed it
            if stat.S_ISREG((found := path.stat()).st_mode):
                yield str(path.relative_to(folder)), found.st_size
