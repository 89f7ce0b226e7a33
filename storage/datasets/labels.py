"""Labels of samples, beside the shards: a table of its own that versions name by its digest.

To label samples anew is to store another table and publish another version; no shard is written, and older versions
keep the labels that they had.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from aura.errors import InvalidInputError, MissingFileError
from storage.datasets.dataset import Dataset
from storage.datasets.versions import Version
from storage.objects.tables import encode_table, read_table

_READERS: Final = 16
_KEYS: Final = ("sample_id", "source_uri")


def read_label_table(path: Path) -> pa.Table:
    """Read a table of labels that a person made.

    Raises:
        MissingFileError: there is no such file.
        InvalidInputError: it is no table, or has no column that says what is labelled.
    """
    readers = {".parquet": pq.read_table, ".csv": pyarrow.csv.read_csv}
    reader = readers.get(path.suffix.lower(), pyarrow.json.read_json)
    try:
        table = reader(path)
    except FileNotFoundError as error:
        raise MissingFileError(f"{path} is not there. Check the path.") from error
    except (pa.ArrowException, OSError) as error:
        raise InvalidInputError(f"{path} is no Parquet, CSV or JSON lines table ({error}).") from error
    if sum(key in table.column_names for key in _KEYS) != 1 or len(table.column_names) < 2:
        found = ", ".join(table.column_names)
        raise InvalidInputError(
            f"{path} has the columns {found}; expected one of sample_id and source_uri, and at least one label."
        )
    return table


def match_labels(dataset: Dataset, table: pa.Table) -> pa.Table:
    """Lay labels out by sample.

    Args:
        dataset: whose samples are labelled.
        table: has ``sample_id`` or ``source_uri``, once each, and labels.

    Returns:
        ``sample_id`` and the labels, a row per labelled sample, sorted.

    Raises:
        InvalidInputError: a row names nothing in the dataset, or two rows name the same.
        StorageError: the storage refused.
    """
    key = next(name for name in _KEYS if name in table.column_names)
    with ThreadPoolExecutor(_READERS) as pool:
        tables = [each.select(_KEYS) for each in pool.map(dataset.samples, dataset.committed_shards())]
    samples = pa.concat_tables([each.replace_schema_metadata(None) for each in tables])
    keys = table[key].cast(pa.string()).to_pylist()
    if len(set(keys)) != len(keys):
        raise InvalidInputError(f"The labels name {key} {_first_repeated(keys)!r} more than once. Leave one.")
    unknown = set(keys) - set(samples[key].to_pylist())
    if unknown:
        raise InvalidInputError(
            f"{len(unknown)} of {len(keys)} labels are of nothing in {dataset.location.url}, such as {key} "
            f"{min(unknown)!r}. Take them out."
        )
    rows = {value: place for place, value in enumerate(keys)}
    places = {
        sample: rows[value]
        for sample, value in zip(samples["sample_id"].to_pylist(), samples[key].to_pylist(), strict=True)
        if value in rows
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


def labels_name(digest: str) -> str:
    """Name, within the dataset, of the table of labels with a digest."""
    return f"labels/{digest}.parquet"


def _first_repeated(keys: list[str]) -> str:
    seen: set[str] = set()
    return next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
