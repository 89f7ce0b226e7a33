"""Reading only the samples that an expression is true of: by their columns, and by the labels of the version."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from aura.errors import InvalidInputError
from storage.datasets.dataset import Dataset
from storage.datasets.labels import match_labels, write_labels
from storage.datasets.publishing import publish
from storage.reading import RawDataset, RawStream
from tests.storage.conftest import MakeDataset


@pytest.fixture
def dataset(make_dataset: MakeDataset) -> Dataset:
    """Samples 0 to 4 of ISO 100 to 500, of which two are labelled."""
    dataset = make_dataset((0, 1, 2))
    labels = pa.table({"sample_id": ["sample-1", "sample-2"], "kind": ["street", "wood"]})
    publish(dataset, labels=write_labels(dataset, match_labels(dataset, labels)))
    return dataset


def names(data: RawDataset) -> list[str]:
    return [str(data.facts(item)["sample_id"]) for item in range(len(data))]


def test_samples_are_chosen_by_columns_and_labels(dataset: Dataset) -> None:
    url = dataset.location
    assert names(RawDataset(url, where=pc.field("iso") <= 200)) == ["sample-0", "sample-1"]
    assert names(RawDataset(url, where=pc.field("labels", "kind") == "wood")) == ["sample-2"]
    assert names(RawDataset(url, where=pc.field("labels").is_null())) == ["sample-0", "sample-3", "sample-4"]
    assert names(RawDataset(url, where=pc.field("labels").is_valid())) == ["sample-1", "sample-2"]
    both = (pc.field("iso") > 100) & (pc.field("labels", "kind") == "street")
    assert names(RawDataset(url, where=both)) == ["sample-1"]
    assert names(RawDataset(url, where=pc.field("labels", "kind").is_null())) == ["sample-0", "sample-3", "sample-4"]
    assert int(RawDataset(url, where=pc.field("iso") == 300)[0]["iso"]) == 300


def test_a_stream_of_some_samples_gives_no_other_and_resumes_only_as_itself(dataset: Dataset) -> None:
    wanted = pc.field("iso") > 100
    stream = RawStream(dataset.location, batch_size=1, where=wanted)
    batches = iter(stream)
    first, state = next(batches), stream.state_dict()
    seen = [first, *batches]
    assert sorted(batch["sample_id"][0] for batch in seen) == ["sample-1", "sample-2", "sample-3", "sample-4"]
    again = RawStream(dataset.location, batch_size=1, where=pc.field("iso") > 100)
    again.load_state_dict(state)
    assert [batch["sample_id"] for batch in again] == [batch["sample_id"] for batch in seen[1:]]
    with pytest.raises(InvalidInputError, match="where"):
        RawStream(dataset.location, batch_size=1, where=pc.field("iso") >= 200).load_state_dict(state)


def test_long_lists_of_values_that_read_alike_are_told_apart(dataset: Dataset) -> None:
    """An expression's words show only the ends of such a list."""
    first, second = (
        pc.field("iso").isin([1, *range(1000, 1100), wanted, *range(2000, 2100), 9999]) for wanted in (200, 300)
    )
    state = RawStream(dataset.location, batch_size=1, where=first).state_dict()
    with pytest.raises(InvalidInputError, match="where"):
        RawStream(dataset.location, batch_size=1, where=second).load_state_dict(state)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (pc.field("isoo") > 1, r"isoo.*its columns are index \(int64\), sample_id"),
        (pc.field("iso") == "high", "no kernel"),
        (pc.field("labels", "colour") == 1, "cannot be asked"),
        ("iso > 100", r"where is 'iso > 100', a str; expected an expression of pyarrow"),
        (pc.field("iso") > 9000, "true of none of the 5 samples"),
    ],
)
def test_what_cannot_be_asked_is_said(dataset: Dataset, where: pc.Expression, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        RawDataset(dataset.location, where=where)


def test_labels_of_a_version_without_any_are_missed(dataset: Dataset) -> None:
    with pytest.raises(InvalidInputError, match=r"has none.*aura label"):
        RawDataset(dataset.location, "unpublished", where=pc.field("labels", "kind") == "wood")
    # a text that holds the word asks for none
    assert len(RawDataset(dataset.location, "unpublished", where=pc.field("source_uri") != "s3://labels/a.png")) == 5
