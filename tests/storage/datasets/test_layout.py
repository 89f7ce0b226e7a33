import pytest

from storage.datasets.layout import OWN_NAMES, is_own, is_part


@pytest.mark.parametrize(
    "name",
    [
        *("zarr.json", "raw/zarr.json", "srgb/c/17/0/0/0", "samples/00000042.parquet", "rejects/123456789.parquet"),
        *("plan/00000000.parquet", "index.parquet", f"index/{'0a' * 16}.parquet", "listings/000001.json"),
        *("listings/000002.parquet", "versions/000001.json", "tags/v1.json", f"labels/{'f' * 64}.parquet"),
        *("reports/000001.html", "lease/000003.json"),
    ],
)
def test_names_that_are_given_here_are_known(name: str) -> None:
    assert is_own(name)
    assert name.split("/", maxsplit=1)[0] in OWN_NAMES


@pytest.mark.parametrize(
    "name",
    [
        *("holiday.jpg", "raw/README.md", "raw/c/1/0/0", "samples/42.parquet", "samples/00000042.parquet.bak"),
        *("versions/1.json", "labels/mine.csv", "mine/zarr.json", "zarr.json/x", "tags/a/b.json", "index/"),
    ],
)
def test_names_of_others_are_not(name: str) -> None:
    assert not is_own(name)


def test_files_that_were_never_finished_are_ours_where_we_write() -> None:
    assert is_part("raw/c/1/0/0/.0.0123.part")
    assert is_part(".zarr.json.0123.part")
    assert not is_part("mine/.0.0123.part")
    assert not is_part("raw/c/1/0/0/0.part")
    assert not is_part("raw/.hidden")
