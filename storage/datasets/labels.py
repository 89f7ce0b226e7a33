"""Labels of samples, beside the shards: a table of its own that versions name by its digest.

To label samples anew is to store another table and publish another version; no shard is written, and older versions
keep the labels that they had.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from aura.errors import InvalidInputError, MissingFileError
from storage.corpora.sources import source_name
from storage.datasets.dataset import Dataset
from storage.datasets.samples import SAMPLE_SCHEMA
from storage.datasets.versions import Version
from storage.objects.tables import encode_table, read_table

_READERS: Final = 16
_KEYS: Final = ("sample_id", "source_uri")
_NAMES: Final = (*_KEYS, "source_member")
COMPARED: Final = 20_000
"""Names among which the one most like a wrong one is looked for: comparing takes some microseconds each."""


def read_label_table(path: Path) -> pa.Table:
    """Read a table of labels that a person made.

    Raises:
        MissingFileError: there is no such file.
        InvalidInputError: it is no table, has a column twice, or none that says what is labelled.
    """
    readers = {".parquet": pq.read_table, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower(), pyarrow.json.read_json)
    try:
        table = reader(path)
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} is not there. Check the path.") from error
    except (pa.ArrowException, OSError) as error:
        raise InvalidInputError(f"{path} is no Parquet, CSV or JSON lines table ({error}).") from error
    found = ", ".join(table.column_names)
    if sum(key in table.column_names for key in _KEYS) != 1 or len(table.column_names) < 2:
        raise InvalidInputError(
            f"{path} has the columns {found}; expected one of sample_id and source_uri, and at least one label."
        )
    if len(set(table.column_names)) < len(table.column_names):
        raise InvalidInputError(f"{path} has the columns {found}; expected each name once. Rename or remove one.")
    return table


def match_labels(dataset: Dataset, table: pa.Table) -> pa.Table:
    """Lay labels out by sample.

    Args:
        dataset: whose samples are labelled.
        table: has ``sample_id`` or ``source_uri``, once each, and labels. A photograph in a tar or Parquet file is
            named by the file and its member after ``#``; labels of the file are of those in it that are not named.

    Returns:
        ``sample_id`` and the labels, a row per labelled sample, sorted.

    Raises:
        InvalidInputError: a row names nothing in the dataset or nothing at all, or two rows name the same.
        StorageError: the storage refused.
    """
    key = next(name for name in _KEYS if name in table.column_names)
    keys = _keys(table[key], key)
    with ThreadPoolExecutor(_READERS) as pool:
        tables = [each.select(_NAMES) for each in pool.map(dataset.samples, dataset.committed_shards())]
    samples = pa.concat_tables([SAMPLE_SCHEMA.empty_table().select(_NAMES), *tables]).to_pylist()
    names = {str(row["sample_id"]): _closest_first(row, key) for row in samples}
    rows = {value: place for place, value in enumerate(keys)}
    known = {name for each in names.values() for name in each}
    unknown = sorted(set(keys) - known)
    if unknown:
        alike = most_alike(unknown[0], sorted(known))
        raise InvalidInputError(
            f"{len(unknown)} of {len(keys)} labels are of nothing in {dataset.location.url}, such as {key} "
            f"{unknown[0]!r}; it has names such as {alike!r}. Take them out, or mend the names."
        )
    places = {
        sample: next(rows[name] for name in each if name in rows)
        for sample, each in names.items()
        if not rows.keys().isdisjoint(each)
    }
    ordered = sorted(places)
    labels = table.drop_columns([key]).take(pa.array([places[sample] for sample in ordered], pa.int64()))
    return labels.add_column(0, "sample_id", pa.array(ordered, pa.string()))


def write_labels(dataset: Dataset, labels: pa.Table) -> str:
    """Store a table of labels under its digest, which is returned.

    Raises:
        StorageError: the storage refused.
    """
    digest = labels_digest(labels)
    dataset.location.join(labels_name(digest)).write(encode_table(labels))
    return digest


def labels_digest(labels: pa.Table) -> str:
    """Return the digest under which a table of labels is stored."""
    return hashlib.sha256(encode_table(labels)).hexdigest()


def read_labels(dataset: Dataset, version: Version) -> pa.Table | None:
    """Return the labels of a version by ``sample_id``, or None if it has none.

    Raises:
        MissingFileError: they are gone.
        IntegrityError: they are damaged.
        StorageError: the storage refused.
    """
    return None if version.labels is None else read_table(dataset.location.join(labels_name(version.labels)))


def most_alike(name: str, names: Sequence[str]) -> str:
    """Return the name that a wrong one was perhaps meant to be; of many names, the first are looked at."""
    return next(iter(get_close_matches(name, names[:COMPARED], n=1, cutoff=0.0)), "none")


def labels_name(digest: str) -> str:
    """Name, within the dataset, of the table of labels with a digest."""
    return f"labels/{digest}.parquet"


def _read_csv(path: Path) -> pa.Table:
    """Read it with its keys as they are written: names of digits alone are names."""
    return pyarrow.csv.read_csv(
        path, convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(_KEYS, pa.string()))
    )


def _keys(column: pa.ChunkedArray, key: str) -> list[str]:
    """What the rows of a table are of."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise InvalidInputError(f"The labels' {key} is of type {column.type}; expected texts.")
    keys: list[str | None] = column.cast(pa.string()).to_pylist()
    nameless = [place for place, value in enumerate(keys) if not value]
    if nameless:
        raise InvalidInputError(
            f"{len(nameless)} of {len(keys)} labels have no {key}, the first in row {nameless[0] + 1}. Take them out."
        )
    named = [value for value in keys if value]
    value, times = max(Counter(named).items(), key=lambda item: item[1], default=("", 0))
    if times > 1:
        raise InvalidInputError(f"The labels name {key} {value!r} more than once. Leave one.")
    return named


def _closest_first(row: dict[str, Any], key: str) -> tuple[str, ...]:
    """The names that labels may call a sample by: a photograph in a tar by its member before the tar."""
    if key == "sample_id" or row["source_member"] is None:
        return (str(row[key]),)
    return source_name(row["source_uri"], row["source_member"]), str(row["source_uri"])
