from pathlib import Path

import pytest

from aura.errors import RecipeError
from storage.recipe import Recipe, difference, load_recipe


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_and_options_make_one_recipe(tmp_path: Path) -> None:
    path = write(tmp_path, "corpus: photos\ncanvas: {mode: fit, height: 256, width: 128}\niso: [100, 800]\nseed: 7\n")
    recipe = load_recipe(path, {"canvas.width": 192, "iso": 400, "gates.min_cycle_psnr": 20})
    assert recipe.canvas.mode == "fit"
    assert (recipe.canvas.height, recipe.canvas.width) == (256, 192)
    assert recipe.iso == 400
    assert recipe.gates.min_cycle_psnr == 20
    assert recipe.seed == 7


def test_an_override_leaves_the_other_parts_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "corpus: photos\nlimits: {max_pixels: 1000, min_side: 64}\n")
    assert load_recipe(path, {"limits.max_pixels": 2000}).limits.min_side == 64


def test_a_relative_corpus_becomes_absolute() -> None:
    assert load_recipe(None, {"corpus": "photos"}).corpus == str(Path.cwd() / "photos")
    assert load_recipe(None, {"corpus": "s3://bucket/photos/"}).corpus == "s3://bucket/photos"


@pytest.mark.parametrize(
    "corpus", ["https://me:hush99@host/list.txt", "https://host/list.txt?X-Amz-Signature=hush99", "s3://AK:hush99@b/x"]
)
def test_a_corpus_with_credentials_is_refused_without_saying_them(corpus: str) -> None:
    with pytest.raises(RecipeError, match="holds credentials") as caught:
        load_recipe(None, {"corpus": corpus})
    assert "hush99" not in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"shard_sise": 3}, "unknown field 'shard_sise'; did you mean 'shard_size'?"),
        ({"canvas.hight": 64}, "unknown field 'canvas.hight'; did you mean 'height'?"),
        ({"zebra": 1}, "unknown field 'zebra'; known fields are corpus, corpus_column, canvas"),
        ({"canvas.height": 100}, "field 'canvas.height' is 100: 100 is not a multiple of 16"),
        ({"canvas.min_side": 33}, "33 is odd"),
        ({"canvas.min_side": 1024}, "min_side 1024 is more than the canvas"),
        ({"canvas.mode": "stretch"}, "field 'canvas.mode' is 'stretch': input should be 'tile' or 'fit'"),
        ({"iso": (800, 100)}, "range 800 to 100 must be positive and ascending"),
        ({"iso": -1}, "field 'iso'"),
        ({"shard_size": 0}, "field 'shard_size' is 0"),
        ({"codec": "zip"}, "field 'codec' is 'zip'"),
        ({"cameras": ()}, "field 'cameras'"),
        ({"lpips_share": 1.5}, "field 'lpips_share' is 1.5"),
        ({"limits.max_pixels": 10**9}, "field 'limits.max_pixels'"),
        ({"seed.x": 1, "seed": 3}, "'seed.x' cannot be set"),
        ({"corpus": "gopher://hole"}, "storage scheme 'gopher' is not known"),
    ],
)
def test_a_wrong_value_is_named(overrides: dict[str, object], expected: str) -> None:
    values = {"seed": 1, "corpus": "photos"} | dict(sorted(overrides.items()))
    with pytest.raises(RecipeError) as caught:
        load_recipe(None, values)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("corpus: [unclosed", "not valid YAML at line"),
        ("- a\n- b\n", "holds a list"),
        ("", "field 'corpus' is missing"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        load_recipe(write(tmp_path, text))
    with pytest.raises(RecipeError, match="is not there"):
        load_recipe(tmp_path / "none.yaml")


def test_the_digest_follows_what_decides_the_bytes() -> None:
    recipe = load_recipe(None, {"corpus": "photos"})
    again = Recipe.model_validate_json(recipe.model_dump_json())
    assert again == recipe
    assert again.digest == recipe.digest
    assert load_recipe(None, {"corpus": "photos", "seed": 1}).digest != recipe.digest
    assert load_recipe(None, {"corpus": "photos", "gates.min_cycle_psnr": 1}).digest == recipe.digest
    assert load_recipe(None, {"corpus": "photos", "weights": "w"}).digest == recipe.digest


def test_a_difference_of_recipes_names_fields_and_values_of_both() -> None:
    one = load_recipe(None, {"corpus": "/photos"})
    other = load_recipe(None, {"corpus": "/photos", "canvas.height": 256, "iso": 800, "corpus_column": "image"})
    assert difference(one.deciding, other.deciding) == (
        "made with canvas.height 512, corpus_column none, iso [100, 6400]; "
        "asked for canvas.height 256, corpus_column image, iso 800"
    )
    assert difference(one.deciding, one.deciding) == ""


def test_a_difference_of_recipes_is_short_and_holds_no_credential() -> None:
    said = difference({"corpus": "s3://AK:hush@bucket/x"}, {"corpus": "s3://bucket/" + "deep/" * 200})
    assert "hush" not in said
    assert "s3://***@bucket/x" in said
    assert len(said) < 200
