"""A Parquet file of others takes no more memory than a page, whatever its pages unpack to."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.errors import IntegrityError, RejectedImageError
from storage.corpora.corpus import check_corpus, list_items, read_item
from storage.corpora.image_tables import open_table, read_row
from storage.corpora.page_limits import PageLimitedFile, parse_header
from storage.corpora.sources import Content, Item
from storage.objects.location import locate
from storage.recipe import Limits
from tests.storage.conftest import encoded

LIMITS = Limits(max_bytes=1 << 20)
PHOTOGRAPHS = [encoded(64, 64, (1, 2, 3)), encoded(64, 64, (4, 5, 6))]


def bomb(path: Path, size: int, **options: Any) -> Path:
    """A file of a few kilobytes with two photographs, and behind them a value that unpacks to ``size`` bytes."""
    table = pa.table({"image": pa.array([*PHOTOGRAPHS, bytes(size)], pa.binary())})
    pq.write_table(table, path, compression="zstd", row_group_size=2, **options)
    assert path.stat().st_size < 10_000
    return path


def contents(path: Path) -> list[Content]:
    return [content for _, content in read_item(Item(path.as_uri(), path.stat().st_size), LIMITS)]


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_a_page_that_unpacks_to_too_much_is_refused_unread(tmp_path: Path, use_dictionary: bool) -> None:
    first, second, refused = contents(bomb(tmp_path / "a.parquet", 17 << 20, use_dictionary=use_dictionary))
    assert [first, second] == PHOTOGRAPHS
    assert isinstance(refused, RejectedImageError)
    assert refused.reason == "too_many_bytes"
    assert "unpacks from" in str(refused)
    assert f"{16 << 20} are allowed" in str(refused)


def test_what_a_dictionary_repeats_is_held_once(tmp_path: Path) -> None:
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 64, pa.int32()), pa.array([bytes(30 << 20)], pa.binary()))
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": values}), path, compression="zstd", store_schema=False)
    limits = Limits(max_bytes=40 << 20)
    assert sum(1 for _ in read_item(Item(path.as_uri(), path.stat().st_size), limits, "image")) == 64
    assert pa.default_memory_pool().max_memory() < 1 << 30  # all of them take 2 GB


def test_a_row_of_a_page_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.corpora.page_limits.LARGEST_PAGE", 1 << 20)
    path = bomb(tmp_path / "a.parquet", 2 << 20)
    assert read_row(path.as_uri(), "image/00000001") == PHOTOGRAPHS[1]
    with pytest.raises(RejectedImageError, match="unpacks from"):
        read_row(path.as_uri(), "image/00000002")


def test_photographs_in_one_large_page_are_read(tmp_path: Path) -> None:
    """As pyarrow writes them by default: 1024 to a page, which is larger than any of them may be."""
    rng = np.random.default_rng(0)
    photographs = [rng.bytes(20_000) for _ in range(200)]
    path = tmp_path / "a.parquet"
    photographs[0] = encoded(64, 64, (1, 2, 3))
    pq.write_table(pa.table({"image": pa.array(photographs, pa.binary())}), path)
    assert contents(path) == photographs


def test_a_bomb_is_a_reject_of_the_corpus_and_a_list_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    bomb(folder / "a.parquet", 17 << 20)
    assert len(list(list_items(check_corpus(folder)))) == 1
    lines = tmp_path / "list.parquet"
    pq.write_table(pa.table({"uri": ["a.png", "x" * (65 << 20)]}), lines, compression="zstd", use_dictionary=False)
    with pytest.raises(IntegrityError, match=r"list\.parquet cannot be read.*unpacks from"):
        list(list_items(lines))


def test_a_footer_whose_columns_overlap_is_damaged(tmp_path: Path) -> None:
    class Chunk(NamedTuple):
        data_page_offset: int
        total_compressed_size: int
        has_dictionary_page: bool = False

    class Footer:
        num_row_groups, num_columns = 1, 2

        def row_group(self, _: int) -> "Footer":
            return self

        def column(self, number: int) -> Chunk:
            return (Chunk(4, 100), Chunk(103, 50))[number]

    file = PageLimitedFile(locate(tmp_path / "a"), 1000, 1000, 1000)
    with pytest.raises(ValueError, match="across each other"):
        file.limit(Footer())


@given(st.binary(max_size=64))
def test_any_bytes_are_a_header_or_said_to_be_none(data: bytes) -> None:
    try:
        header = parse_header(data)
    except (IndexError, ValueError):
        return
    assert 0 < header.length <= len(data)
    assert header.unpacked >= 0
    assert header.packed >= 0


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_every_kind_of_page_is_walked(tmp_path: Path, version: str, compression: str) -> None:
    texts = [f"text {number % 700} " * 20 for number in range(5000)]
    table = pa.table({"a": texts, "b": [text.encode() for text in texts], "n": range(5000), "none": pa.nulls(5000)})
    sink = io.BytesIO()
    pq.write_table(
        table, sink, compression=compression, data_page_version=version, data_page_size=4000, row_group_size=2000,
        write_page_checksum=True,
    )  # fmt: skip
    path = tmp_path / "a.parquet"
    path.write_bytes(sink.getvalue())
    assert open_table(locate(path), None).read().equals(table)
