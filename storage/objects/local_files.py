"""Local files as objects: whole or absent, on the disk when written, and listed without what is hidden."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote_from_bytes


def put_file(path: Path, data: bytes, *, exclusive: bool) -> None:
    """Store a whole file, safe on the disk when this returns; with ``exclusive`` only if there is none yet."""
    try:
        _make_folder(path.parent)
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


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that a loss of power leaves it where it is."""
    missing = [each for each in (folder, *folder.parents) if not each.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:  # a new folder is an entry of the one above
        _sync_folder(made.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def walk_files(root: Path) -> Iterator[tuple[Path, int]]:
    """Yield each file below with its bytes, sorted by URI; hidden ones, folders and links to folders are left out.

    Memory holds the names of the folders on the way down, not all names.
    """
    if root.is_file():
        yield root, root.stat().st_size
        return
    if not root.is_dir():
        raise FileNotFoundError(root)
    with os.scandir(root) as listed:
        kept = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in listed if entry.name[0] != "."]
    for name, is_folder in sorted(kept, key=_uri_order):
        path = root / name
        if is_folder:
            yield from walk_files(path)
        elif path.is_file():
            yield path, path.stat().st_size


def _uri_order(entry: tuple[str, bool]) -> str:
    # a folder sorts as what lies in it does, behind its slash
    return quote_from_bytes(os.fsencode(entry[0])) + "/" * entry[1]
