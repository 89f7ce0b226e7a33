"""The recipe: everything a run needs to know, in one frozen, validated object with a digest."""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from aura.errors import AuraError, RecipeError
from storage.objects.location import locate
from storage.objects.refusals import without_credentials

_FIELD_IN_DOCSTRING: Final = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)

_LONGEST_VALUE: Final = 80

CanvasMode = Literal["tile", "fit"]
Codec = Literal["zstd", "lz4", "pcodec"]
Method = Literal["aura", "aura_global", "upi", "linearise"]


def _absolute(url: str) -> str:
    try:
        return locate(url).url
    except AuraError as error:
        raise ValueError(str(error)) from error


def _ordered(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1]:
        raise ValueError(f"range {pair[0]:g} to {pair[1]:g} must be positive and ascending")
    return pair


def _multiple_of_16(side: int) -> int:
    if side < 16 or side % 16:
        raise ValueError(f"{side} is not a multiple of 16 of at least 16; {max(16, round(side / 16) * 16)} is")
    return side


def _even(side: int) -> int:
    if side % 2:
        raise ValueError(f"{side} is odd; RAW needs even sizes, {side + 1} is one")
    return side


CanvasSide = Annotated[int, AfterValidator(_multiple_of_16)]
EvenSide = Annotated[int, Field(ge=16), AfterValidator(_even)]
IsoRange = Annotated[tuple[PositiveInt, PositiveInt], AfterValidator(_ordered)]
KelvinRange = Annotated[
    tuple[Annotated[float, Field(ge=1500, le=25000)], Annotated[float, Field(ge=1500, le=25000)]],
    AfterValidator(_ordered),
]


def _describe_fields(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Put what a model's docstring says of its fields into its JSON schema, which forms are made of."""
    said = inspect.getdoc(model) or ""
    summary, _, attributes = said.partition("Attributes:")
    schema["description"] = " ".join(summary.split())
    for name, text in _FIELD_IN_DOCSTRING.findall(attributes):
        schema["properties"][name]["description"] = " ".join(text.replace("``", "").split())


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, hide_input_in_errors=True, json_schema_extra=_describe_fields
    )


class Canvas(_Part):
    """The size of every sample, in pixels of the mosaic (the packed planes have half of it).

    Attributes:
        mode: ``tile`` cuts a photograph into canvas-sized pieces at even offsets; ``fit`` shrinks it into one.
        height: multiple of 16.
        width: multiple of 16.
        min_side: even; a remainder (tile) or a shrunk photograph (fit) with a shorter side is left out.
    """

    mode: CanvasMode = "tile"
    height: CanvasSide = 512
    width: CanvasSide = 512
    min_side: EvenSide = 64

    @model_validator(mode="after")
    def _min_side_fits(self) -> Self:
        if self.min_side > min(self.height, self.width):
            raise ValueError(f"min_side {self.min_side} is more than the canvas {self.height}x{self.width}")
        return self


class Limits(_Part):
    """What a source image may be; anything beyond is refused before it is decoded.

    Attributes:
        max_bytes: size of the encoded file.
        max_pixels: height times width.
        min_side: shortest side in pixels.
    """

    max_bytes: PositiveInt = 256 * 2**20
    max_pixels: Annotated[int, Field(ge=1, le=178_956_970)] = 150_000_000  # beyond, Pillow itself refuses
    min_side: Annotated[int, Field(ge=16)] = 32


class AnnotationSource(_Part):
    """Boxes and masks of the corpus' photographs, which become labels of the samples. They decide no byte of a shard.

    Attributes:
        source: a COCO ``.json`` file, or a folder of YOLO's ``.txt`` files with ``classes.txt`` or ``data.yaml``.
        min_area: a box that a tile cuts is kept if at least this share of its area within the photograph is left, or
            if what is left fills at least this share of the tile.
        frame: the pixels that the annotations were drawn on: ``upright`` is after the EXIF orientation, ``stored``
            before it; ``auto`` goes by the size that a COCO file names, and takes upright where that does not tell.
    """

    source: Annotated[str, AfterValidator(_absolute)]
    min_area: Annotated[float, Field(gt=0, le=1)] = 0.25
    frame: Literal["auto", "upright", "stored"] = "auto"


class Licences(_Part):
    """Under which licence each photograph is; kept in the index, and as ``source_licence`` with every sample.

    Attributes:
        default: licence of photographs of which nothing else is said: an SPDX identifier, an address, or words.
        column: column of a list or of a Parquet file of images, or key in the JSON file beside a photograph in a tar,
            that says each one's own.
        embedded: where that says nothing, what a photograph's own XMP names counts before the default.
        allowed: licences that may be used, upper or lower case; photographs of others, or of none, are refused. None
            allows all.
    """

    default: str | None = None
    column: str | None = None
    embedded: bool = False
    allowed: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _can_allow(self) -> Self:
        unsaid = self.column is None and not self.embedded
        if self.allowed is not None and unsaid and not self.allows(self.default):
            said = "nothing says what licence the photographs have" if self.default is None else "default is not in it"
            raise ValueError(
                f"allowed is {', '.join(self.allowed)}, but {said}; give a default that is, or a column, or embedded"
            )
        return self

    def allows(self, licence: str | None) -> bool:
        """Tell whether photographs under a licence may be used; None is of those without any."""
        if self.allowed is None:
            return True
        return licence is not None and licence.casefold() in {each.casefold() for each in self.allowed}


class Gates(_Part):
    """What a finished dataset must reach; None asks nothing. They decide success, not bytes.

    Attributes:
        min_cycle_psnr_matched: least mean cycle PSNR in dB after exposure and tone are matched.
        min_cycle_psnr: least mean cycle PSNR in dB, as is.
        min_cycle_ssim: least mean cycle SSIM, as is.
        max_cycle_lpips: greatest mean cycle LPIPS, as is.
        max_reject_fraction: greatest share of sources that could not be used, in [0, 1].
        max_set_aside_fraction: greatest share of shards that may be missing because they failed on several workers.
    """

    min_cycle_psnr_matched: float | None = None
    min_cycle_psnr: float | None = None
    min_cycle_ssim: Annotated[float, Field(ge=-1, le=1)] | None = None
    max_cycle_lpips: Annotated[float, Field(ge=0)] | None = None
    max_reject_fraction: Annotated[float, Field(ge=0, le=1)] | None = 0.5
    max_set_aside_fraction: Annotated[float, Field(ge=0, le=1)] | None = 0.0


class Recipe(_Part):
    """How to make a dataset. Two equal recipes make equal bytes of equal corpora.

    Attributes:
        corpus: folder or URL of the photographs, or of tar or Parquet files that hold them, or of a list (txt, csv,
            parquet) of paths and URIs; a relative path is made absolute.
        corpus_column: column of images, or of paths and URIs, in Parquet and CSV files; None finds it.
        canvas: size of the samples.
        cameras: profile names (or YAML files) of which one is drawn for each sample.
        iso: one value, or a range from which each sample's is drawn, evenly in stops.
        illuminant_kelvin: None for D65, or a range of colour temperatures to draw the scene light from.
        noise: ``stored`` adds noise to the RAW; ``on_read`` stores clean RAW and the noise parameters drawn for it, so
            that a reader adds fresh noise in every epoch; ``none`` leaves it clean.
        noise_model: ``calibrated`` needs the camera's own calibration, ``generic`` always works.
        method: which inverse makes canonical linear from sRGB.
        weights: weights file of the method; None takes the released ones.
        shard_size: samples in one storage object and one task.
        codec: how the RAW is compressed, always without loss: ``pcodec`` takes the least room and is read by
            zarr-python, xarray and Rust's zarrs; ``zstd`` and ``lz4`` (Blosc) take up to a tenth and a sixth more,
            decode faster, and are read by every Zarr v3 library, tensorstore and zarr.js included.
        keep_srgb: whether the source pixels are stored beside the RAW.
        seed: everything drawn follows from it.
        limits: which source images are refused.
        gates: what the finished dataset must reach.
        annotations: boxes and masks of the photographs, or None.
        licences: under which licence the photographs are, and which may be used; None keeps nothing of it.
        lpips_share: share of the samples on whose middle LPIPS is computed, in [0, 1]; that takes about as long as the
            network on a whole one.
    """

    corpus: Annotated[str, AfterValidator(_absolute)]
    corpus_column: str | None = None
    canvas: Canvas = Canvas()
    cameras: Annotated[tuple[str, ...], Field(min_length=1)] = ("canon-eos-5d-mark-iv",)
    iso: PositiveInt | IsoRange = (100, 6400)
    illuminant_kelvin: KelvinRange | None = None
    noise: Literal["stored", "on_read", "none"] = "stored"
    noise_model: Literal["calibrated", "generic"] = "calibrated"
    method: Method = "aura"
    weights: str | None = None
    shard_size: Annotated[int, Field(ge=1, le=65536)] = 64
    # 24 synthesized 14-bit frames, 512x512, ISO 123-4596, bits per pixel and decoded MB/s a core: pcodec 10.14, 550;
    # blosc zstd-9 10.71, 880; zstd-3 11.13, 1180; lz4 11.65, 1660; lossless-JPEG DNG 10.17. See `make bench-reader`
    codec: Codec = "pcodec"
    keep_srgb: bool = True
    seed: Annotated[NonNegativeInt, Field(lt=2**63)] = 0
    limits: Limits = Limits()
    gates: Gates = Gates()
    annotations: AnnotationSource | None = None
    licences: Licences | None = None
    lpips_share: Annotated[float, Field(ge=0, le=1)] = 0.01

    @property
    def deciding(self) -> dict[str, Any]:
        """What decides the bytes: all but gates, annotations and the weights' path (whose digest is kept)."""
        # what is not named is left out, so that the digests of recipes without it stay what they were
        unnamed = {name for name in ("corpus_column", "licences") if getattr(self, name) is None}
        left_out: dict[str, Any] = dict.fromkeys({"gates", "annotations", "weights"} | unnamed, True)
        if self.licences is not None and not self.licences.embedded:
            left_out["licences"] = {"embedded"}
        return self.model_dump(mode="json", exclude=left_out)

    @property
    def licence_column(self) -> str | None:
        """Where the licence of each photograph is named, or None."""
        return self.licences.column if self.licences is not None else None

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the canonical JSON of :attr:`deciding`."""
        return hashlib.sha256(canonical_json(self.deciding)).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of ``value``: sorted keys, no blanks, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def load_recipe(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe from a YAML file and lay overrides over it.

    Args:
        path: the YAML file, or None to build the recipe from the overrides alone.
        overrides: values by field name; a dot reaches into a part, as in ``{"canvas.mode": "fit"}``.

    Raises:
        RecipeError: the file is missing or not YAML, or a field is unknown or out of range; the message names the
            field and what was expected.
    """
    values = _read_yaml(Path(path)) if path is not None else {}
    for key, value in (overrides or {}).items():
        _lay(values, key, value)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        source = f"Recipe {path}" if path is not None else "Recipe"
        said = "; ".join(dict.fromkeys(_explain(problem, values) for problem in _told_once(error.errors())))
        raise RecipeError(f"{source}: {said}{'' if said.endswith('?') else '.'}") from error


def difference(made: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Say in words where two recipes' :attr:`Recipe.deciding` differ; empty if they do not. Never holds a credential.

    Returns:
        Such as ``made with seed 0, codec pcodec; asked for are seed 3, codec zstd``; the fields are dotted.
    """
    first, second = _flatten(made), _flatten(asked)
    fields = sorted(key for key in first.keys() | second.keys() if first.get(key) != second.get(key))
    said = (", ".join(f"{field} {_shown(one.get(field))}" for field in fields) for one in (first, second))
    return "made with {}; asked for {}".format(*said) if fields else ""


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = without_credentials("none" if value is None else text)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE // 2]}...{text[-_LONGEST_VALUE // 2 :]}"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(f"Recipe {path} is not there. Check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"Recipe {path} cannot be read ({type(error).__name__}). Give a UTF-8 YAML file.") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where is not None else ""
        raise RecipeError(f"Recipe {path} is not valid YAML{line}. Correct it and run again.") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(f"Recipe {path} holds a {type(values).__name__}; expected fields such as 'corpus: photos'.")
    return values


def _lay(values: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        inner = values.get(part) or {}
        if not isinstance(inner, dict):
            raise RecipeError(f"Recipe: {key!r} cannot be set, since {part!r} is {inner!r} and has no fields.")
        values[part] = dict(inner)
        values = values[part]
    values[last] = value


def _told_once(problems: Sequence[Any]) -> list[Any]:
    """Leave out what pydantic says of each form that ISO may have, when one of them says it all."""
    of_iso = [problem for problem in problems if problem["loc"][0] == "iso"]
    telling = [problem for problem in of_iso if problem["type"] == "value_error"][:1]
    return [problem for problem in problems if problem not in of_iso or not telling or problem in telling]


def _explain(problem: Any, values: Mapping[str, Any]) -> str:
    if problem["loc"][0] == "iso" and problem["type"] != "value_error":
        expected = "expected a positive whole number, or an ascending range of two such as [100, 6400]"
        return f"field 'iso' is {values['iso']!r}: {expected}"
    location = [part for part in problem["loc"] if isinstance(part, str) and "[" not in part]
    field = ".".join(location) or "the whole"
    if problem["type"] == "extra_forbidden":
        return f"unknown field {field!r}{_suggestion(location)}"
    if problem["type"] == "missing":
        return f"field {field!r} is missing"
    said = problem["msg"].removeprefix("Value error, ").rstrip(".")
    return f"field {field!r} is {without_credentials(repr(problem['input']))}: {said[0].lower()}{said[1:]}"


def _suggestion(location: list[str]) -> str:
    model: type[BaseModel] = Recipe
    for part in location[:-1]:
        annotation = model.model_fields[part].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    names = list(model.model_fields)
    close = difflib.get_close_matches(location[-1], names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known fields are {', '.join(names)}"


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flatten(inner, f"{prefix}.{key}" if prefix else key)
    return flat
