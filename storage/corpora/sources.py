"""What a corpus is made of: items that are listed, and the photographs that they are or hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from aura.errors import RejectedImageError

COMPANIONS: Final = frozenset(
    {".txt", ".json", ".jsonl", ".yaml", ".yml", ".csv", ".tsv", ".xml", ".md", ".html", ".npy", ".npz", ".log",
     ".toml", ".ini", ".py", ".sha256", ".md5", ".license", ".cls", ".cls2", ".caption", ".idx", ".index", ".pt",
     ".pth", ".pkl", ".pyd"}
)  # fmt: skip
"""Name endings that are passed over, because they lie beside photographs and are none."""

Content = bytes | RejectedImageError
"""The bytes of a photograph, or why it cannot be used."""


@dataclass(frozen=True, slots=True)
class Item:
    """One object of a corpus, or one line of a list: a photograph, or a file that holds many.

    Attributes:
        uri: its address.
        size: its bytes; None where that is known only by asking for it.
        refusal: reason and sentence why it is not even asked for, or None.
        licence: that a list names, or None.
    """

    uri: str
    size: int | None
    refusal: tuple[str, str] | None = None
    licence: str | None = None

    @property
    def is_tar(self) -> bool:
        """Whether it is a tar file."""
        return _ending(self.uri) == ".tar"

    @property
    def is_table(self) -> bool:
        """Whether it is a Parquet file."""
        return _ending(self.uri) == ".parquet"


@dataclass(frozen=True, slots=True)
class Source:
    """One photograph of a corpus.

    Attributes:
        uri: address of the file, or of the tar or Parquet file that holds it.
        member: name inside the tar, or ``column/row`` of the Parquet file, or None.
        offset: first byte inside the tar, or None.
        length: bytes of the photograph; None while they are not known.
        archive_bytes: bytes of the tar or Parquet file, or None.
        licence: that is named beside it, or None.
    """

    uri: str
    member: str | None
    offset: int | None
    length: int | None
    archive_bytes: int | None = None
    licence: str | None = None


def source_name(uri: str, member: str | None) -> str:
    """Return the one name of a photograph: its address, and after ``#`` the member of a tar or Parquet file."""
    return uri if member is None else f"{uri}#{member}"


def is_companion(name: str) -> bool:
    """Tell by its name whether a file is hidden, or lies beside photographs and is none."""
    path = PurePosixPath(name)
    return path.name.startswith(".") or path.suffix.lower() in COMPANIONS


def _ending(uri: str) -> str:
    return PurePosixPath(uri).suffix.lower()
