"""Where things are kept: one URL (a local path, ``s3://``, or any other fsspec URL) and the few ways to touch it.

Whole objects only: an object is either absent or complete, on every kind of storage. Every refusal of the storage
becomes one clear sentence, and no message ever holds a credential. Nothing here stays open, so a Location may be
pickled and may cross a fork; file systems are asked for anew in each process.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore

from aura.errors import InvalidInputError, MissingFileError, StorageAccessError
from storage.objects.file_systems import file_system
from storage.objects.local_files import put_file, walk_files
from storage.objects.refusals import CREDENTIAL_IN_QUERY, refusals, says_exists, without_credentials
from storage.objects.web_files import read_web_file

_in_memory = threading.Lock()


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """One object found by :meth:`Location.walk`.

    Attributes:
        uri: address of the object; local ones are ``file://`` URIs, so that any file name has one.
        size: bytes.
    """

    uri: str
    size: int


@dataclass(frozen=True, slots=True)
class Dated:
    """One object found by :meth:`Location.dated`.

    Attributes:
        name: last part of its address.
        size: bytes.
        modified: when it was written last, in seconds since 1970 by the storage's clock.
    """

    name: str
    size: int
    modified: float


@dataclass(frozen=True, slots=True)
class Location:
    """A place in a storage; make one with :func:`locate`.

    Attributes:
        url: an absolute local path, or a URL with its scheme; never holds credentials, never ends in a slash.
    """

    url: str

    @property
    def is_local(self) -> bool:
        """Whether this is a path of this machine."""
        return "://" not in self.url

    @property
    def is_web(self) -> bool:
        """Whether it lies on a server of others, whose refusals, and words on a file's length, are about that file."""
        return self.scheme in {"http", "https"}

    @property
    def scheme(self) -> str:
        """``file``, ``s3``, or what the URL says."""
        return "file" if self.is_local else self.url.split("://", 1)[0]

    @property
    def name(self) -> str:
        """Last part of the path."""
        return self.url.rsplit("/", 1)[-1]

    def join(self, *parts: str) -> Location:
        """Return the place at ``parts`` below this one."""
        return Location("/".join([self.url.rstrip("/"), *(part.strip("/") for part in parts)]))

    def read(self, start: int | None = None, stop: int | None = None) -> bytes:
        """Return the object's bytes, or those from ``start`` up to ``stop``.

        Raises:
            MissingFileError: there is no such object.
            StorageAccessError: the credentials were refused.
            StorageError: the storage refused otherwise.
        """
        with refusals(self.url, "read"):
            if self.is_web and stop is not None and (start or 0) >= 0:
                return read_web_file(self._file_system(), self.url, start or 0, stop)
            return bytes(self._file_system().cat_file(self._path(), start=start, end=stop))

    def write(self, data: bytes) -> None:
        """Store ``data`` as one whole object, replacing what was there; readers see the old bytes or the new.

        Raises:
            MissingFileError: the bucket does not exist.
            StorageAccessError: the credentials were refused.
            StorageError: the storage refused otherwise, for example because it is full.
        """
        with refusals(self.url, "write"):
            if self.is_local:
                put_file(Path(self.url), data, exclusive=False)
            else:
                self._file_system().pipe_file(self._path(), data)

    def create(self, data: bytes) -> bool:
        """Store ``data`` only if nothing is there yet, whoever else tries at the same moment.

        Returns:
            True if this call made the object, False if one was there already (which is left as it is).

        Raises:
            MissingFileError: the bucket does not exist.
            StorageAccessError: the credentials were refused.
            StorageError: the storage refused otherwise.
        """
        with refusals(self.url, "write"):
            try:
                if self.is_local:
                    put_file(Path(self.url), data, exclusive=True)
                elif self.scheme == "memory":
                    with _in_memory:  # which looks first and then writes
                        self._file_system().pipe_file(self._path(), data, mode="create")
                else:
                    self._file_system().pipe_file(self._path(), data, mode="create")
            except OSError as error:
                if says_exists(error):
                    return False
                raise
        return True

    def remove(self) -> None:
        """Delete the object; it is no error if there is none.

        Raises:
            StorageAccessError: the credentials were refused.
            StorageError: the storage refused.
        """
        with suppress(MissingFileError), refusals(self.url, "delete"):
            self._file_system().rm_file(self._path())

    def size(self) -> int | None:
        """Return the object's bytes; None where a server does not say.

        Raises:
            MissingFileError: there is no such object.
            StorageAccessError: the credentials were refused.
            StorageError: the storage refused otherwise.
        """
        with refusals(self.url, "read"):
            info = self._file_system().info(self._path())
            if info["type"] != "file":
                raise FileNotFoundError(self.url)
            return None if info["size"] is None else int(info["size"])

    def exists(self) -> bool:
        """Tell whether an object is here.

        Raises:
            StorageAccessError: the credentials were refused.
            StorageError: the storage refused otherwise.
        """
        try:
            self.size()
        except MissingFileError:
            return False
        return True

    def names(self) -> list[str]:
        """List the names directly below, sorted; empty if there is nothing. Half-written files are not listed.

        Raises:
            StorageAccessError: the credentials were refused.
            StorageError: the storage refused otherwise.
        """
        return [name for name, _ in self._listing()]

    def dated(self) -> list[Dated]:
        """List the objects directly below with their times, sorted by name; empty if there is nothing.

        Raises:
            StorageAccessError: the credentials were refused.
            StorageError: the storage refused otherwise.
        """
        files = ((name, info) for name, info in self._listing() if info["type"] == "file")
        return [Dated(name, int(info["size"]), _modified(info)) for name, info in files]

    def walk(self) -> Iterator[Entry]:
        """Yield every object below, sorted by URI; hidden files, folders and links to folders are left out.

        Raises:
            MissingFileError: the folder or bucket is not there.
            StorageAccessError: the credentials were refused.
            StorageError: the storage refused otherwise.
        """
        yield from self.stream() if self.is_local else sorted(self.stream())

    def stream(self) -> Iterator[Entry]:
        """Yield what :meth:`walk` does, in any order, the first before the last is known.

        Raises:
            InvalidInputError: it lies on a web server, which lists nothing.
            MissingFileError: the folder, the prefix or the bucket is not there.
            StorageAccessError: the credentials were refused.
            StorageError: the storage refused.
        """
        if self.is_web:
            raise InvalidInputError(
                f"{self.url} is no list, and a web server does not say what it holds. Give a list with a URI on each "
                "line (.txt, .csv or .parquet)."
            )
        with refusals(self.url, "list"):
            if self.is_local:
                yield from (Entry(path.as_uri(), size) for path, size in walk_files(Path(self.url)))
            else:
                yield from self._stream_remote()

    def check_reachable(self) -> None:
        """Ask the storage itself whether it can be used, so that a run fails before any work.

        Raises:
            MissingFileError: the bucket does not exist.
            StorageAccessError: the credentials were refused, or the local folder may not be entered.
            StorageError: the storage does not answer.
        """
        if self.scheme in {"s3", "s3a"}:
            bucket = self._path().split("/", 1)[0]
            with refusals(f"{self.scheme}://{bucket}", "use"):
                self._file_system().call_s3("head_bucket", Bucket=bucket)
        elif self.is_local:
            nearest = next(path for path in (Path(self.url), *Path(self.url).parents) if path.exists())
            if not os.access(nearest, os.R_OK | (os.X_OK if nearest.is_dir() else 0)):
                raise StorageAccessError(
                    f"Cannot enter {nearest}: permission denied. Allow it or choose another place."
                )

    def zarr_store(self) -> Store:
        """Open this place as a read-only Zarr store; it belongs to the process that asked."""
        if self.is_local:
            return LocalStore(self.url, read_only=True)
        with refusals(self.url, "open"):
            system = file_system(self.scheme, asynchronous=True)
            if not isinstance(system, AsyncFileSystem):
                system = AsyncFileSystemWrapper(self._file_system(), asynchronous=True)
        return FsspecStore(system, path=self._path(), read_only=True)

    def _listing(self) -> list[tuple[str, dict[str, Any]]]:
        """What the file system says of each thing directly below, by name; nothing of what is hidden."""
        try:
            with refusals(self.url, "list"):
                found = self._file_system().ls(self._path(), detail=True)
        except MissingFileError:
            return []
        below = {info["name"].rstrip("/"): info for info in found}
        named = ((path.rsplit("/", 1)[-1], info) for path, info in below.items() if path != self._path())
        return sorted((each for each in named if not each[0].startswith(".")), key=lambda each: each[0])

    def _stream_remote(self) -> Iterator[Entry]:
        path = self._path()
        found = False
        for key, size in _list_s3(self) if self.scheme in {"s3", "s3a"} else _list_any(self):
            found = True
            hidden = any(part.startswith(".") for part in key[len(path) :].split("/"))
            if not hidden and not key.endswith("/"):
                yield Entry(f"{self.scheme}://{key}", size)
        if not found:  # one object is a corpus of one; otherwise this says what is missing
            info = self._file_system().info(path)
            yield Entry(self.url, int(info["size"]))

    def _path(self) -> str:
        # what fsspec calls it: servers of the web by the whole URL, everything else without the scheme
        return self.url if self.is_local or self.is_web else self.url.split("://", 1)[1]

    def _file_system(self) -> Any:
        return file_system(self.scheme)


def locate(url: str | os.PathLike[str] | Location) -> Location:
    """Make a Location of a path or URL.

    Args:
        url: a path (made absolute; ``~`` is the home folder), a ``file://`` URL, or another fsspec URL.

    Raises:
        InvalidInputError: the URL is empty, of an unknown scheme, or holds credentials.
    """
    if isinstance(url, Location):
        return url
    text = os.fspath(url)
    if not text.strip():
        raise InvalidInputError("The place to read or write is empty; give a path or a URL such as s3://bucket/prefix.")
    scheme, separator, rest = re.sub("^(file|local):/(?!/)", "file:///", text).partition("://")
    if not separator:
        _refuse_half_a_scheme(text)
        return Location(str(Path(os.path.abspath(os.path.expanduser(text)))))  # noqa: PTH100, PTH111  # pathlib resolves links
    if scheme in {"file", "local"}:
        return Location(os.path.abspath(os.fsdecode(unquote_to_bytes("/" + rest.lstrip("/")))))  # noqa: PTH100  # as above
    if scheme not in fsspec.available_protocols():
        raise InvalidInputError(
            f"Storage scheme {scheme!r} is not known; use a path or a URL such as s3://bucket/prefix."
        )
    if "@" in urlsplit(text).netloc:
        instead = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" if scheme in {"s3", "s3a"} else "give one without"
        raise InvalidInputError(f"The {scheme}:// URL holds credentials; take them out and {instead}.")
    if scheme in {"http", "https"} and CREDENTIAL_IN_QUERY.search(text):
        raise InvalidInputError(
            f"The {scheme}:// URL holds credentials in its query, which a dataset would keep; give one without."
        )
    rest = re.sub(r"/+$", "", rest)
    if not rest or (scheme in {"s3", "s3a"} and rest.startswith("/")):
        raise InvalidInputError(f"{scheme}:// names no bucket; give {scheme}://bucket/prefix.")
    return Location(f"{scheme}://{rest}")


def _refuse_half_a_scheme(path: str) -> None:
    """Refuse ``s3:/bucket``, which would otherwise be a folder ``s3:`` here."""
    scheme, separator, rest = path.partition(":")
    meant = scheme.lower()
    if separator and (meant == "s3" or (rest.startswith("/") and meant in fsspec.available_protocols())):
        place = without_credentials(f"{meant}://{rest.lstrip('/')}")
        raise InvalidInputError(f"{scheme}: needs two slashes; did you mean {place}? If it is a path, put ./ before.")


def _modified(info: Mapping[str, Any]) -> float:
    """Find the time of an object in what a file system says of it; each has a word of its own for that."""
    found = next((info[word] for word in ("LastModified", "mtime", "last_modified", "created") if info.get(word)), 0.0)
    return float(found.timestamp()) if isinstance(found, datetime) else float(found)


def _list_s3(location: Location) -> Iterator[tuple[str, int]]:
    bucket, _, prefix = location.url.split("://", 1)[1].partition("/")
    more: dict[str, str] = {}
    while True:
        page = file_system(location.scheme).call_s3(
            "list_objects_v2", Bucket=bucket, Prefix=f"{prefix}/" if prefix else "", **more
        )
        for item in page.get("Contents", []):
            yield f"{bucket}/{item['Key']}", int(item["Size"])
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _list_any(location: Location) -> Iterator[tuple[str, int]]:
    path = location.url.split("://", 1)[1]
    for key, info in file_system(location.scheme).find(path, detail=True).items():
        if key.strip("/") != path.strip("/"):
            yield key.lstrip("/"), int(info["size"])
