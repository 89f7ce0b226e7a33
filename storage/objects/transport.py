"""Byte ranges of a dataset's objects, as fast as the place they lie in gives them.

Local objects are mapped into memory. Those on S3 come through s3fs, or through obstore where that is asked for: its
threads do not survive a fork, and ``make bench-reader`` shows what it gains. Handles belong to the process that opened
them.
"""

from __future__ import annotations

import importlib.util
import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

from aura.errors import InvalidInputError
from storage.objects.file_systems import storage_options
from storage.objects.location import Location
from storage.objects.refusals import refusals

TransportName = Literal["fsspec", "obstore"]
Bytes = bytes | memoryview

_obstore_began_in: dict[str, int] = {}


class Transport(Protocol):
    """What reads ranges of one dataset's objects; may be called from several threads."""

    def tail(self, key: str, length: int) -> Bytes:
        """Return the last ``length`` bytes of an object."""
        ...

    def ranges(self, key: str, bounds: Sequence[tuple[int, int]]) -> list[Bytes]:
        """Return an object's bytes from each start up to its stop."""
        ...


def open_transport(place: Location, name: TransportName = "fsspec") -> Transport:
    """Open the way to the objects below a place, for this process alone.

    Args:
        place: of the dataset; local places are mapped, whatever the name.
        name: ``fsspec``, or ``obstore`` for S3 where it is installed.

    Raises:
        InvalidInputError: obstore is asked for and not installed, the place is not one it reaches, or this process was
            forked from one that used it, where it would hang.
    """
    if place.is_local:
        return _MappedFiles(Path(place.url))
    if name == "fsspec":
        return _Fsspec(place)
    if place.scheme not in {"s3", "s3a"} or importlib.util.find_spec("obstore") is None:
        raise InvalidInputError(
            f"Transport obstore cannot read {place.url}: it is for s3://, and comes with `pip install obstore`. Choose "
            "transport='fsspec'."
        )
    if _obstore_began_in.setdefault("process", os.getpid()) != os.getpid():
        raise InvalidInputError(
            "Transport obstore was used before this process was forked, and would hang. Start workers by spawn, or "
            "choose transport='fsspec'."
        )
    return _Obstore(place)


class _MappedFiles:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._mapped = lru_cache(maxsize=256)(self._map)

    def tail(self, key: str, length: int) -> Bytes:
        return self._mapped(key)[-length:]

    def ranges(self, key: str, bounds: Sequence[tuple[int, int]]) -> list[Bytes]:
        data = self._mapped(key)
        return [data[start:stop] for start, stop in bounds]

    def _map(self, key: str) -> memoryview:
        path = self._folder / key
        with refusals(str(path), "read"), path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:  # damaged; mmap refuses it in words of its own
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


class _Fsspec:
    def __init__(self, place: Location) -> None:
        self._place = place

    def tail(self, key: str, length: int) -> Bytes:
        return self._place.join(key).read(-length)

    def ranges(self, key: str, bounds: Sequence[tuple[int, int]]) -> list[Bytes]:
        return [self._place.join(key).read(start, stop) for start, stop in bounds]


class _Obstore:
    def __init__(self, place: Location) -> None:
        from obstore.store import S3Store  # noqa: PLC0415  # an extra

        self._url = place.url
        bucket, _, self._prefix = place.url.split("://", 1)[1].partition("/")
        options = storage_options(place.scheme)
        endpoint = options.get("endpoint_url")
        given: dict[str, Any] = {
            "endpoint": endpoint,
            "access_key_id": options.get("key"),
            "secret_access_key": options.get("secret"),
            "session_token": options.get("token"),
            "region": (options.get("client_kwargs") or {}).get("region_name", "us-east-1"),
        }
        config: Any = {name: value for name, value in given.items() if value}
        self._store = S3Store(
            bucket,
            config=config,
            client_options={"allow_http": bool(endpoint and endpoint.startswith("http://"))},
        )

    def tail(self, key: str, length: int) -> Bytes:
        import obstore  # noqa: PLC0415  # an extra

        with _obstore_refusals(f"{self._url}/{key}"):
            return memoryview(obstore.get(self._store, self._path(key), options={"range": {"suffix": length}}).bytes())

    def ranges(self, key: str, bounds: Sequence[tuple[int, int]]) -> list[Bytes]:
        import obstore  # noqa: PLC0415  # an extra

        starts, stops = [start for start, _ in bounds], [stop for _, stop in bounds]
        with _obstore_refusals(f"{self._url}/{key}"):
            found = obstore.get_ranges(self._store, self._path(key), starts=starts, ends=stops)
        return [memoryview(one) for one in found]

    def _path(self, key: str) -> str:
        return f"{self._prefix}/{key}" if self._prefix else key


@contextmanager
def _obstore_refusals(url: str) -> Iterator[None]:
    """Turn what obstore raises into the errors that every other transport raises."""
    from obstore import exceptions  # noqa: PLC0415  # an extra

    with refusals(url, "read"):
        try:
            yield
        except (exceptions.NotFoundError, FileNotFoundError) as error:
            raise FileNotFoundError(url) from error
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError) as error:
            raise PermissionError("permission denied") from error
        except exceptions.BaseError as error:
            raise OSError(str(error)) from error
