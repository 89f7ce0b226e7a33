"""Where things are kept: one URL (a local path, ``s3://``, or any other fsspec URL) and the few ways to touch it.

Whole objects only: an object is either absent or complete, on every kind of storage. Every refusal of the storage
becomes one clear sentence, and no message ever holds a credential. Nothing here stays open, so a Location may be
pickled and may cross a fork; file systems are asked for anew in each process.
"""

from __future__ import annotations

import errno
import json
import os
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_to_bytes, urlsplit

import fsspec
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore

from aura.errors import (
    AuraError,
    InvalidInputError,
    MissingFileError,
    StorageAccessError,
    StorageError,
)

_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY: Final = {errno.EROFS, errno.EACCES, errno.EPERM}
_in_memory = threading.Lock()
_CREDENTIAL_VARIABLES: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


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
                _put_local(Path(self.url), data, exclusive=False)
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
                    _put_local(Path(self.url), data, exclusive=True)
                elif self.scheme == "memory":
                    with _in_memory:  # which looks first and then writes
                        self._file_system().pipe_file(self._path(), data, mode="create")
                else:
                    self._file_system().pipe_file(self._path(), data, mode="create")
            except OSError as error:
                if _says_exists(error):
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

    def exists(self) -> bool:
        """Tell whether an object is here.

        Raises:
            StorageAccessError: the credentials were refused.
            StorageError: the storage refused otherwise.
        """
        try:
            with refusals(self.url, "read"):
                return bool(self._file_system().info(self._path())["type"] == "file")
        except MissingFileError:
            return False

    def names(self) -> list[str]:
        """List the names directly below, sorted; empty if there is nothing. Half-written files are not listed.

        Raises:
            StorageAccessError: the credentials were refused.
            StorageError: the storage refused otherwise.
        """
        try:
            with refusals(self.url, "list"):
                found = self._file_system().ls(self._path(), detail=False)
        except MissingFileError:
            return []
        names = {path.rstrip("/").rsplit("/", 1)[-1] for path in found if path.rstrip("/") != self._path()}
        return sorted(name for name in names if not name.startswith("."))

    def walk(self) -> Iterator[Entry]:
        """Yield every object below, sorted by URI; hidden files, folders and links to folders are left out.

        Raises:
            MissingFileError: the folder or bucket is not there.
            StorageAccessError: the credentials were refused.
            StorageError: the storage refused otherwise.
        """
        yield from sorted(self.stream())

    def stream(self) -> Iterator[Entry]:
        """Yield what :meth:`walk` does, in any order, the first before the last is known.

        Raises:
            MissingFileError: the folder, the prefix or the bucket is not there.
            StorageAccessError: the credentials were refused.
            StorageError: the storage refused.
        """
        with refusals(self.url, "list"):
            if self.is_local:
                yield from _stream_local(Path(self.url))
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
            system = _file_system(self.scheme, asynchronous=True)
            if not isinstance(system, AsyncFileSystem):
                system = AsyncFileSystemWrapper(self._file_system(), asynchronous=True)
        return FsspecStore(system, path=self._path(), read_only=True)

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
        return self.url if self.is_local else self.url.split("://", 1)[1]

    def _file_system(self) -> Any:
        return _file_system(self.scheme)


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
    scheme, separator, rest = text.partition("://")
    if not separator:
        return Location(str(Path(os.path.abspath(os.path.expanduser(text)))))  # noqa: PTH100, PTH111  # pathlib resolves links
    if scheme in {"file", "local"}:
        return Location(os.path.abspath(os.fsdecode(unquote_to_bytes("/" + rest.lstrip("/")))))  # noqa: PTH100  # as above
    if scheme not in fsspec.available_protocols():
        raise InvalidInputError(
            f"Storage scheme {scheme!r} is not known; use a path or a URL such as s3://bucket/prefix."
        )
    if "@" in urlsplit(text).netloc:
        raise InvalidInputError(
            f"The {scheme}:// URL holds credentials; take them out and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    rest = re.sub(r"/+$", "", rest)
    if not rest:
        raise InvalidInputError(f"{scheme}:// names no bucket; give {scheme}://bucket/prefix.")
    return Location(f"{scheme}://{rest}")


def storage_options(scheme: str, *, asynchronous: bool = False) -> dict[str, Any]:
    """Return what fsspec needs to open a file system, taken from the environment at this moment.

    For S3: ``AWS_ENDPOINT_URL`` (or ``AWS_ENDPOINT_URL_S3``), ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
    ``AWS_SESSION_TOKEN``, ``AWS_REGION``. What is not set is left to botocore's own search (profiles, roles).
    """
    options: dict[str, Any] = {"asynchronous": True} if asynchronous else {}
    if scheme not in {"s3", "s3a"}:
        return options
    environment = os.environ
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    named = {
        "endpoint_url": environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL"),
        "key": environment.get("AWS_ACCESS_KEY_ID"),
        "secret": environment.get("AWS_SECRET_ACCESS_KEY"),
        "token": environment.get("AWS_SESSION_TOKEN"),
        "client_kwargs": {"region_name": region} if region else None,
    }
    options |= {key: value for key, value in named.items() if value}
    options["use_listings_cache"] = False  # another process may have written since
    options["config_kwargs"] = {
        "retries": {"mode": "standard", "max_attempts": 4},
        "connect_timeout": 5,
        "read_timeout": 60,
    }
    return options


def _file_system(scheme: str, *, asynchronous: bool = False) -> Any:
    options = storage_options(scheme, asynchronous=asynchronous)
    return _cached_file_system(os.getpid(), scheme, json.dumps(options, sort_keys=True))


@lru_cache(maxsize=32)
def _cached_file_system(process: int, scheme: str, options: str) -> Any:  # noqa: ARG001  # none may cross a fork
    # fsspec's own cache makes one for each thread, with connections of its own
    return fsspec.filesystem(scheme, skip_instance_cache=True, **json.loads(options))


def _list_s3(location: Location) -> Iterator[tuple[str, int]]:
    bucket, _, prefix = location.url.split("://", 1)[1].partition("/")
    more: dict[str, str] = {}
    while True:
        page = _file_system(location.scheme).call_s3(
            "list_objects_v2", Bucket=bucket, Prefix=f"{prefix}/" if prefix else "", **more
        )
        for item in page.get("Contents", []):
            yield f"{bucket}/{item['Key']}", int(item["Size"])
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _list_any(location: Location) -> Iterator[tuple[str, int]]:
    path = location.url.split("://", 1)[1]
    for key, info in _file_system(location.scheme).find(path, detail=True).items():
        if key.strip("/") != path.strip("/"):
            yield key.lstrip("/"), int(info["size"])


@contextmanager
def refusals(url: str, action: str) -> Iterator[None]:
    """Turn whatever a storage library raises inside the block into one AuraError.

    Args:
        url: the place, as the message shall name it.
        action: a verb for the message: ``read``, ``write``, ``list``, ``use``.

    Raises:
        MissingFileError: what was asked for, or its bucket, is not there.
        StorageAccessError: the credentials were refused or are missing.
        StorageError: anything else that a storage says, and libraries' own failures to reach it.
    """
    try:
        yield
    except AuraError:
        raise
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StorageAccessError(
            f"Cannot {action} {url}: no credentials found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from error
    except FileNotFoundError as error:
        raise MissingFileError(_missing_message(url, action)) from error
    except PermissionError as error:
        raise StorageAccessError(_access_message(url, action, error)) from error
    except (OSError, BotoCoreError, ClientError, TimeoutError) as error:
        raise StorageError(_refusal_message(url, action, error)) from error


def _missing_message(url: str, action: str) -> str:
    if url.startswith("s3") and url.count("/") == 2:
        return f"Cannot {action} {url}: the bucket does not exist. Create it or correct its name."
    return f"Cannot {action} {url}: it is not there. Check the path."


def _access_message(url: str, action: str, error: PermissionError) -> str:
    if "://" in url:
        return (
            f"Cannot {action} {url}: the storage refused the credentials ({without_credentials(str(error))}). "
            "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they are allowed to do."
        )
    return f"Cannot {action} {url}: permission denied. Change its permissions or choose another place."


def _refusal_message(url: str, action: str, error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in _NO_ROOM:
        return (
            f"Cannot {action} {url}: no room left ({os.strerror(number)}). Free some space, then run again to resume."
        )
    if number in _READ_ONLY:
        return f"Cannot {action} {url}: {os.strerror(number)}. Change its permissions or choose another place."
    if isinstance(error, NotADirectoryError):
        return f"Cannot {action} {url}: a part of the path is a file. Choose another place."
    said = without_credentials(str(error)) or type(error).__name__
    return f"Cannot {action} {url}: {said} ({type(error).__name__}). Check that it is up, then run again to resume."


def without_credentials(text: str) -> str:
    """Return ``text`` with every credential of the environment, and any that a URL holds, blotted out."""
    for variable in _CREDENTIAL_VARIABLES:
        value = os.environ.get(variable)
        if value:
            text = text.replace(value, "***")
    return re.sub(r"://[^/\s@]+@", "://***@", text).strip().rstrip(".")


def _says_exists(error: OSError) -> bool:
    if isinstance(error, FileExistsError):
        return True
    cause = error.__cause__
    code = cause.response.get("Error", {}).get("Code") if isinstance(cause, ClientError) else None
    # 409: somebody else's conditional write of the same key is in flight and won
    return code in {"PreconditionFailed", "ConditionalRequestConflict", "412"}


def _put_local(path: Path, data: bytes, *, exclusive: bool) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # or else it would seem that the object itself exists
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent)) from error
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with unfinished.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if exclusive:
            os.link(unfinished, path)  # fails if the name is taken, unlike rename
        else:
            unfinished.replace(path)
    finally:
        with suppress(FileNotFoundError):
            unfinished.unlink()
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stream_local(root: Path) -> Iterator[Entry]:
    if root.is_file():
        yield Entry(root.as_uri(), root.stat().st_size)
        return
    if not root.is_dir():
        raise FileNotFoundError(root)
    for folder, subfolders, names in os.walk(root, onerror=_raise):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name)
            if not name.startswith(".") and path.is_file():
                yield Entry(path.as_uri(), path.stat().st_size)


def _raise(error: OSError) -> None:
    raise error
