"""Reading only some samples: those of which an expression over their columns and labels is true."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from aura.errors import InvalidInputError
from storage.datasets.labels import read_labels
from storage.datasets.versions import read_version
from storage.reading.sample_columns import ChosenVersion

_LABELS = "labels"


def select(chosen: ChosenVersion, samples: pa.Table, where: pc.Expression | None) -> pa.Table:
    """Return the samples of which an expression is true, in their order.

    Args:
        chosen: the version that they are of.
        samples: with :data:`storage.datasets.samples.SAMPLE_SCHEMA`.
        where: of pyarrow, over the columns of ``samples`` and over the version's labels: ``pc.field("iso") <= 800``,
            ``pc.field("labels", "kind") == "street"``. None takes all.

    Raises:
        InvalidInputError: it names a column that is not there, gives no truth, or is true of no sample.
        StorageError: the storage refused.
    """
    if where is None:
        return samples
    if not isinstance(where, pc.Expression):
        raise InvalidInputError(
            f"where is {where!r}, a {type(where).__name__}; expected an expression of pyarrow, such as "
            "pyarrow.compute.field('iso') > 1600."
        )
    labels = _labels_of(chosen, samples) if _LABELS in str(where) else None  # a word in a text may look like it
    columns = samples if labels is None else samples.append_column(_LABELS, labels)
    url = chosen.dataset.location.url
    try:
        found = columns.filter(where)
    except pa.ArrowException as error:
        if labels is None and f"({_LABELS})" in str(error):
            raise InvalidInputError(
                f"where asks for labels, but {url}, version {chosen.dataset.version or 'unpublished'}, has none. "
                "Give it some with 'aura label', or read a version that has."
            ) from error
        named = ", ".join(f"{column.name} ({column.type})" for column in columns.schema)
        raise InvalidInputError(
            f"where is {where}, which cannot be asked of {url} ({str(error).splitlines()[0]}); its columns are {named}."
        ) from error
    if samples.num_rows and not found.num_rows:
        raise InvalidInputError(f"where is {where}, which is true of none of the {samples.num_rows} samples of {url}.")
    return found.select(samples.schema.names).combine_chunks()


def _labels_of(chosen: ChosenVersion, samples: pa.Table) -> pa.Array | None:
    """Lay the version's labels beside the samples, a struct or null for each; None where it has no labels."""
    version = chosen.dataset.version
    labels = None if version is None else read_labels(chosen.dataset, read_version(chosen.dataset.location, version))
    if labels is None:
        return None
    places = pc.index_in(samples["sample_id"], value_set=labels["sample_id"])
    rows = labels.drop_columns(["sample_id"]).take(places)
    arrays = [column.combine_chunks() for column in rows.columns]
    unlabelled = pc.is_null(places).combine_chunks()
    return pa.StructArray.from_arrays(arrays, names=rows.schema.names, mask=unlabelled)
