"""The licence of each photograph: named by a list, a table, a tar or the recipe, kept, and a reason to refuse."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aura.errors import InvalidInputError, RecipeError
from storage.corpora.corpus import check_corpus
from storage.corpora.index import index_batches
from storage.datasets.plan import plan_shards
from storage.recipe import load_recipe
from tests.storage.conftest import encoded, make_table, make_tar, read_corpus, save_image, small_recipe

PICTURES = [(f"{name}.png", encoded(64, 64, (number, 9, 9))) for number, name in enumerate("abcd")]


def licences_of(corpus: Path, **licences: Any) -> dict[str, tuple[str | None, str | None]]:
    """Licence and reject reason of each photograph, by its name."""
    rows = read_corpus(corpus, corpus.parent / f"dataset {len(list(corpus.parent.iterdir()))}", licences=licences)
    names = [row["member"] or row["uri"].rsplit("/", 1)[-1] for row in rows.to_pylist()]
    return {name: (row["licence"], row["reject_reason"]) for name, row in zip(names, rows.to_pylist(), strict=True)}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_list_names_them_and_what_is_not_allowed_is_not_even_fetched(tmp_path: Path, ending: str) -> None:
    for name, data in PICTURES[:2]:
        (tmp_path / name).write_bytes(data)
    rows = [("a.png", "CC-BY-4.0"), ("b.png", ""), ("gone.png", "proprietary"), ("gone too.png", "cc0-1.0")]
    corpus = tmp_path / f"list.{ending}"
    if ending == "csv":
        with corpus.open("w", newline="") as file:
            csv.writer(file).writerows([("path", "terms"), *rows])
    else:
        paths, terms = zip(*rows, strict=True)
        pq.write_table(pa.table({"path": paths, "terms": terms}), corpus)
    assert licences_of(corpus, column="terms") == {
        "a.png": ("CC-BY-4.0", None),
        "b.png": (None, None),
        "gone.png": ("proprietary", "missing"),
        "gone%20too.png": ("cc0-1.0", "missing"),
    }
    assert licences_of(corpus, column="terms", allowed=["CC-BY-4.0", "CC0-1.0"]) == {
        "a.png": ("CC-BY-4.0", None),
        "b.png": (None, "licence"),
        "gone.png": ("proprietary", "licence"),
        "gone%20too.png": ("cc0-1.0", "missing"),
    }
    assert licences_of(corpus, column="terms", default="ours")["b.png"] == ("ours", None)
    with pytest.raises(InvalidInputError, match=r"path, terms; expected 'rights'.*--licence-column"):
        check_corpus(corpus, None, "rights")


def test_a_table_of_images_names_them(tmp_path: Path) -> None:
    corpus = tmp_path / "part.parquet"
    corpus.write_bytes(make_table(PICTURES[:3], rights=["one", None, " two "]))
    found = licences_of(corpus, column="rights")
    assert list(found.values()) == [("one", None), (None, None), ("two", None)]
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "with.parquet").write_bytes(make_table(PICTURES[:1], rights=["one"]))
    (folder / "without.parquet").write_bytes(make_table(PICTURES[1:2]))
    assert licences_of(folder, column="rights") == {
        "image/00000000": ("one", None),
        "without.parquet": (None, "no_licence_column"),
    }


def test_the_json_beside_a_photograph_in_a_tar_names_it(tmp_path: Path) -> None:
    (a, b, c, d), say = PICTURES, lambda licence: json.dumps({"license": licence}).encode()
    members = [
        *(a, ("a.json", say("after"))),
        *(("b.json", say("before")), b, ("b.txt", b"a caption")),
        *(c, ("c.json", b"{damaged")),
        *(("x/d.json", say("of another folder")), d),
    ]
    corpus = tmp_path / "shard.tar"
    corpus.write_bytes(make_tar(members))
    assert licences_of(corpus, column="license") == {
        "a.png": ("after", None),
        "b.png": ("before", None),
        "c.png": (None, None),
        "d.png": (None, None),
    }
    whole = corpus.read_bytes()
    corpus.write_bytes(whole[: whole.index(b"x/d.json") + 100])  # within a header: what waits for a licence is not lost
    assert licences_of(corpus, column="license", default="ours") == {
        "a.png": ("after", None),
        "b.png": ("before", None),
        "c.png": ("ours", None),
        "shard.tar": ("ours", "damaged_archive"),
    }


def test_all_are_of_one_licence_that_the_recipe_names_and_the_plan_keeps_it(tmp_path: Path) -> None:
    save_image(tmp_path / "photographs/a.png", 64, 64)
    recipe = small_recipe(tmp_path, corpus=str(tmp_path / "photographs"), licences={"default": "CC0-1.0"})
    read_corpus(tmp_path / "photographs", tmp_path / "dataset", licences={"default": "CC0-1.0"})
    (shard,) = plan_shards(index_batches(tmp_path / "dataset"), recipe)
    assert set(shard["source_licence"].to_pylist()) == {"CC0-1.0"}
    (unasked,) = plan_shards(index_batches(tmp_path / "dataset"), recipe.model_copy(update={"licences": None}))
    assert "source_licence" not in unasked.schema.names


def test_recipes_without_licences_keep_their_digest_and_those_that_allow_nothing_are_refused() -> None:
    assert "licences" not in load_recipe(None, {"corpus": "/c"}).deciding
    asked = load_recipe(None, {"corpus": "/c", "licences.default": "CC0-1.0", "licences.allowed": ["cc0-1.0"]})
    assert asked.deciding["licences"]["default"] == "CC0-1.0"
    for default, said in (("CC-BY-4.0", "default is not in it"), (None, "nothing says what licence")):
        with pytest.raises(RecipeError, match=said):
            load_recipe(None, {"corpus": "/c", "licences.default": default, "licences.allowed": ["CC0-1.0"]})
