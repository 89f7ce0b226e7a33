"""Parquet with fixed bytes: the same table always becomes the same file."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from aura.errors import IntegrityError
from storage.objects.location import Location

_WRITER: Final[Mapping[str, Any]] = {
    "compression": "zstd",
    "compression_level": 3,
    "version": "2.6",
    "use_dictionary": True,
}
_SEAL: Final = "content_sha256"
_BLANK: Final = b"the digest of the file with these words in its place".ljust(64, b".")


def encode_table(table: pa.Table, facts: Mapping[str, str] | None = None) -> bytes:
    """Encode a table as Parquet.

    Args:
        table: any table.
        facts: file-level metadata, text by name.

    Returns:
        The file; equal tables and facts give equal bytes (no time, no host, fixed writer options).
    """
    table = table.combine_chunks().replace_schema_metadata(dict(sorted((facts or {}).items())) or None)
    sink = io.BytesIO()
    pq.write_table(table, sink, **_WRITER)
    return sink.getvalue()


def seal_table(table: pa.Table, facts: Mapping[str, str]) -> bytes:
    """Encode a table as Parquet that carries the digest of its own bytes; see :func:`is_intact`.

    The digest is taken with a blank in its place and then put there.
    """
    schema = table.schema.with_metadata(dict(sorted(facts.items())) or None)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, schema, **_WRITER) as writer:
        writer.write_table(table.combine_chunks().cast(schema))
        # as metadata of the file alone: those of the schema are stored twice
        writer.add_key_value_metadata({_SEAL: _BLANK.decode()})
    data = sink.getvalue()
    return data.replace(_BLANK, hashlib.sha256(data).hexdigest().encode())


class RowGroups:
    """A Parquet file that is made of tables as they come; its row groups have the same rows however they come.

    Args:
        schema: of every table.
        facts: file-level metadata, text by name.
        group_rows: rows of a row group.
    """

    def __init__(self, schema: pa.Schema, facts: Mapping[str, str], group_rows: int) -> None:
        self._schema = schema.with_metadata(dict(sorted(facts.items())) or None)
        self._sink = pa.BufferOutputStream()
        self._writer = pq.ParquetWriter(self._sink, self._schema, **_WRITER)
        self._group_rows = group_rows
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self.rows = 0

    def add(self, table: pa.Table) -> None:
        """Add the next rows."""
        self.rows += table.num_rows
        self._waiting.append(table)
        self._waiting_rows += table.num_rows
        while self._waiting_rows >= self._group_rows:
            self._write(self._group_rows)

    def finish(self) -> bytes:
        """Return the whole file."""
        if self._waiting_rows or not self.rows:
            self._write(self._waiting_rows)
        self._writer.close()
        data: bytes = self._sink.getvalue().to_pybytes()
        return data

    def _write(self, rows: int) -> None:
        table = pa.concat_tables([self._schema.empty_table(), *(each.cast(self._schema) for each in self._waiting)])
        self._writer.write_table(table.slice(0, rows).combine_chunks(), row_group_size=max(1, rows))
        self._waiting = [table.slice(rows)]
        self._waiting_rows -= rows


def is_intact(data: bytes) -> bool:
    """Tell whether the bytes of :func:`seal_table` are as they were written, to the last bit."""
    try:
        facts = pq.read_metadata(pa.BufferReader(data)).metadata or {}
    except (pa.ArrowException, OSError, ValueError):
        return False
    digest: bytes = facts.get(_SEAL.encode(), b"")
    if len(digest) != len(_BLANK) or data.count(digest) != 1:
        return False
    return hashlib.sha256(data.replace(digest, _BLANK)).hexdigest().encode() == digest


def read_table(location: Location, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet object; its file-level metadata is in :func:`facts_of`.

    Raises:
        MissingFileError: there is no such object.
        IntegrityError: it is not a Parquet file, or lacks a column asked for.
        StorageError: the storage refused.
    """
    return decode_table(location.read(), location.url, columns)


def decode_table(data: bytes, name: str, columns: list[str] | None = None) -> pa.Table:
    """Decode a Parquet file.

    Args:
        data: the whole file.
        name: what to call it in an error.
        columns: those to read; None reads all.

    Raises:
        IntegrityError: it is not a Parquet file, or lacks a column asked for.
    """
    try:
        return pq.read_table(pa.BufferReader(data), columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(
            f"{name} is not a whole Parquet file. Delete it, then run again to make it anew."
        ) from error


def read_schema(data: bytes, name: str) -> pa.Schema:
    """Read what a Parquet file says of its columns.

    Args:
        data: the whole file.
        name: what to call it in an error.

    Raises:
        IntegrityError: it is not a Parquet file.
    """
    try:
        return pq.read_schema(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(
            f"{name} is not a whole Parquet file. Delete it, then run again to make it anew."
        ) from error


def facts_of(table: pa.Table) -> dict[str, str]:
    """Return the file-level metadata that :func:`encode_table` was given."""
    raw: dict[bytes, bytes] = table.schema.metadata or {}
    return {key.decode(): value.decode() for key, value in raw.items() if key != b"ARROW:schema"}


def row_at(table: pa.Table, index: int) -> dict[str, Any]:
    """Return one row as plain Python values by column name."""
    row: dict[str, Any] = table.slice(index, 1).to_pylist()[0]
    return row
