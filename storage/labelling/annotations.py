"""Annotations of photographs as COCO and YOLO files hold them, found again for the photographs of a corpus."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

import yaml

from aura.errors import InvalidInputError
from storage.corpora.sources import source_name
from storage.datasets.labels import COMPARED, most_alike
from storage.labelling.boxes import Annotation, Outline
from storage.objects.location import Location, locate

_READERS: Final = 16
_LONGEST_COUNT_BITS: Final = 60
_IN_A_FILE: Final = re.compile(r"(\.(?:tar|parquet))#")
_YOLO_NAMES: Final = ("classes.txt", "data.yaml", "data.yml", "dataset.yaml")


@dataclass(frozen=True, slots=True)
class AnnotatedPhotograph:
    """What an annotation file says of one photograph.

    Attributes:
        name: as the file names it; of YOLO without its suffix.
        annotations: in pixels, or for ``relative`` ones as shares of width and height.
        height: in pixels as the file says, or None.
        width: in pixels as the file says, or None.
        relative: whether the boxes are shares, as in YOLO.
    """

    name: str
    annotations: tuple[Annotation, ...]
    height: int | None = None
    width: int | None = None
    relative: bool = False


@dataclass(frozen=True, slots=True)
class AnnotationSet:
    """All that an annotation file, or folder of them, says.

    Attributes:
        url: where it lies.
        photographs: each with what is in it; nothing means that it was looked at and is empty.
        refused: what could not be understood and was left out, by reason.
    """

    url: str
    photographs: tuple[AnnotatedPhotograph, ...]
    refused: Mapping[str, int] = field(default_factory=dict)


def read_annotations(url: str | Location) -> AnnotationSet:
    """Read COCO's ``instances.json``, or a folder of YOLO's text files with their ``classes.txt`` or ``data.yaml``.

    A box or mask that cannot be understood is left out and counted.

    Raises:
        MissingFileError: there is nothing.
        InvalidInputError: it is neither of the two.
        StorageError: the storage refused.
    """
    location = locate(url)
    if location.name.endswith(".json"):
        return _read_coco(location)
    return _read_yolo(location)


def match_photographs(
    photographs: Sequence[AnnotatedPhotograph], sources: Iterable[tuple[str, str | None, str]], url: str
) -> dict[str, AnnotatedPhotograph]:
    """Find the photographs of a corpus that annotations are of, by the longest end of the path that both share.

    The path of a photograph in a tar or Parquet file goes on in that file; it is also written ``shard.tar#name.jpg``.

    Args:
        photographs: as :func:`read_annotations` gives them.
        sources: URI, member of a tar or None, and SHA-256 of each photograph.
        url: of the annotations, for messages.

    Returns:
        By SHA-256 of the photograph. What is not in the corpus is left out.

    Raises:
        InvalidInputError: a name fits several photographs equally well, or none fits any.
    """
    wanted = {_stem(_parts(photograph.name)[-1], photograph) for photograph in photographs}
    by_stem: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
    names: list[str] = []
    for uri, member, digest in sources:
        file = _path(uri)
        path = file / member.lstrip("/") if member else file
        if len(names) < COMPARED:
            names.append(source_name(file.name, member))
        if path.stem in wanted:  # a corpus may have a million files, of which a few are annotated
            by_stem[path.stem].append((path.parts, digest))
    found: dict[str, AnnotatedPhotograph] = {}
    for photograph in photographs:
        parts = _parts(photograph.name)
        ranked = [
            (_shared(parts, place, whole=not photograph.relative), place, digest)
            for place, digest in by_stem[_stem(parts[-1], photograph)]
        ]
        best = max((shared for shared, _, _ in ranked), default=0)
        fitting = {digest: place for shared, place, digest in ranked if shared == best > 0}
        if len(fitting) > 1:
            places = " and ".join("/".join(place[-3:]) for place in list(fitting.values())[:2])
            raise InvalidInputError(
                f"{url} names {photograph.name!r}, which fits {places}; expected one photograph. Give the annotations "
                "names with folders, or tars, as they are in the corpus."
            )
        for digest in fitting:
            found.setdefault(digest, photograph)
    if photographs and not found:
        raise InvalidInputError(
            f"None of the {len(photographs)} photographs of {url} is in the corpus; the first is "
            f"{photographs[0].name!r}, while the corpus has names such as "
            f"{most_alike(photographs[0].name, names)!r}. Give the annotations of this corpus."
        )
    return found


def _parts(name: str) -> tuple[str, ...]:
    """Split a name at its folders, and between a tar or Parquet file and what is in it."""
    return PurePosixPath(_IN_A_FILE.sub(r"\1/", name)).parts or (name,)


def _stem(name: str, photograph: AnnotatedPhotograph) -> str:
    return name if photograph.relative else PurePosixPath(name).stem


def _shared(name: Sequence[str], place: Sequence[str], *, whole: bool) -> int:
    """Count the parts that two paths share from their ends; of the last part only the stem unless ``whole``."""
    last = place[-1] if whole else PurePosixPath(place[-1]).stem
    if name[-1] != last:
        return 0
    shared = 1
    for ours, theirs in zip(reversed(name[:-1]), reversed(place[:-1]), strict=False):
        if ours != theirs:
            break
        shared += 1
    return shared


def _read_coco(location: Location) -> AnnotationSet:
    try:
        document = json.loads(location.read())
        names = {int(each["id"]): str(each["name"]) for each in document["categories"]}
        images = {each["id"]: each for each in document["images"]}
        entries = list(document["annotations"])
        sizes = {key: (int(each["height"]), int(each["width"])) for key, each in images.items()}
        files = {key: str(each["file_name"]) for key, each in images.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidInputError(
            f"{location.url} is no COCO file ({type(error).__name__}: {error}); expected JSON with images (id, "
            "file_name, height, width), annotations and categories (id, name)."
        ) from error
    by_image: dict[Any, list[Annotation]] = defaultdict(list)
    refused: Counter[str] = Counter()
    for entry in entries:
        try:
            image = entry["image_id"]
            by_image[image].append(_coco_annotation(entry, names, sizes[image]))
        except _RefusedError as error:
            refused[str(error)] += 1
        except (ValueError, KeyError, TypeError) as error:
            refused[f"an annotation lacks or spoils {error}"] += 1
    photographs = tuple(
        AnnotatedPhotograph(name, tuple(by_image[key]), *sizes[key]) for key, name in files.items() if name
    )
    return AnnotationSet(location.url, photographs, refused)


class _RefusedError(Exception):
    """One annotation cannot be understood; the message groups it with others."""


def _coco_annotation(entry: Mapping[str, Any], names: Mapping[int, str], size: tuple[int, int]) -> Annotation:
    category = int(entry["category_id"])
    if category not in names:
        raise _RefusedError("its category is not among the categories")
    left, top, width, height = (float(value) for value in entry["bbox"])
    number = entry.get("id")
    return Annotation(
        category=names[category],
        category_id=category,
        box=_checked((left, top, left + width, top + height)),
        mask=_coco_mask(entry.get("segmentation"), *size),
        is_crowd=bool(entry.get("iscrowd", 0)),
        annotation_id=number if isinstance(number, int) and abs(number) < 2**63 else None,
    )


def _coco_mask(segmentation: Any, height: int, width: int) -> Outline | None:
    if not segmentation:
        return None
    if isinstance(segmentation, Mapping):
        given = segmentation["counts"]
        counts = _decompressed(given) if isinstance(given, str) else [int(count) for count in given]
        whole = min(counts, default=0) >= 0 and sum(counts) == height * width
        if not whole or [int(side) for side in segmentation["size"]] != [height, width]:
            raise _RefusedError("its run lengths are not of the photograph's size")
        return Outline(height, width, run_lengths={"size": [height, width], "counts": counts})
    return _polygons([[float(value) for value in part] for part in segmentation], height, width)


def _decompressed(text: str) -> list[int]:
    """Read COCO's compressed run lengths: pycocotools trusts them, and reads and writes where they say.

    A count is in groups of five bits, lowest first, from the third on less the count before the last.
    """
    counts: list[int] = []
    count = shift = 0
    for character in text:
        bits = ord(character) - 48
        count |= (bits & 31) << shift
        shift += 5
        if shift > _LONGEST_COUNT_BITS:
            raise _RefusedError("its run lengths are not of the photograph's size")
        if not bits & 32:
            count -= (bits & 16) << (shift - 4)  # the sign
            counts.append(count + (counts[-2] if len(counts) > 2 else 0))
            count = shift = 0
    return counts


def _polygons(parts: Sequence[Sequence[float]], height: int, width: int) -> Outline:
    if any(len(part) < 6 or len(part) % 2 or not all(map(math.isfinite, part)) for part in parts):
        raise _RefusedError("its polygon has fewer than three corners")
    # a line to a far corner takes pycocotools all memory, or ends the process
    across, down = ([value for part in parts for value in part[at::2]] for at in (0, 1))
    if min(across) < -width or max(across) > 2 * width or min(down) < -height or max(down) > 2 * height:
        raise _RefusedError("its polygon lies far outside the photograph")
    return Outline(height, width, tuple(map(tuple, parts)))


def _checked(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = box
    if not all(map(math.isfinite, box)) or right <= left or bottom <= top:
        raise _RefusedError("its box has no area")
    return box


def _read_yolo(location: Location) -> AnnotationSet:
    root = _path(location.url)
    files = {
        _path(entry.uri).relative_to(root): locate(entry.uri)
        for entry in location.walk()
        if entry.uri.endswith((".txt", ".yaml", ".yml"))
    }
    texts = {path: place for path, place in files.items() if path.suffix == ".txt" and path.name != "classes.txt"}
    if not texts:
        raise InvalidInputError(
            f"{location.url} holds no annotations; expected a COCO .json file, or a folder with YOLO's .txt files."
        )
    names = _yolo_names(location, {path.name: place for path, place in files.items()})
    refused: Counter[str] = Counter()
    with ThreadPoolExecutor(_READERS) as pool:
        contents = pool.map(Location.read, texts.values())
        photographs = tuple(
            AnnotatedPhotograph(
                str(path.with_suffix("")),
                tuple(_yolo_lines(content.decode("utf-8", "replace"), names, refused)),
                relative=True,
            )
            for path, content in zip(texts, contents, strict=True)
        )
    return AnnotationSet(location.url, photographs, refused)


def _path(url: str) -> PurePosixPath:
    """Return the path of a URL without its scheme, a local one's as the disk knows it."""
    plain = locate(url).url
    return PurePosixPath(plain.partition("://")[2] or plain)


def _yolo_names(location: Location, files: Mapping[str, Location]) -> dict[int, str]:
    """Read the names of the classes, from the folder or the one above it."""
    above = Location(location.url.rpartition("/")[0])
    for name in _YOLO_NAMES:
        place = files.get(name) or above.join(name)
        if not place.exists():
            continue
        text = place.read().decode("utf-8", "replace")
        if name.endswith(".txt"):
            return dict(enumerate(line.strip() for line in text.splitlines() if line.strip()))
        try:
            listed = yaml.safe_load(text)["names"]
            pairs = listed.items() if isinstance(listed, Mapping) else enumerate(listed)
            return {int(number): str(called) for number, called in pairs}
        except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(
                f"{place.url} does not name its classes; expected a list or mapping under 'names'."
            ) from error
    raise InvalidInputError(
        f"{location.url} does not say what its classes are called; expected {', '.join(_YOLO_NAMES)} in it or above it."
    )


def _yolo_lines(text: str, names: Mapping[int, str], refused: Counter[str]) -> Iterator[Annotation]:
    for line in text.splitlines():
        words = line.split()
        if not words:
            continue
        try:
            category, values = int(words[0]), [float(word) for word in words[1:]]
            yield _yolo_annotation(category, names.get(category), values)
        except _RefusedError as error:
            refused[str(error)] += 1
        except ValueError:
            refused["its line is not numbers"] += 1


def _yolo_annotation(category: int, name: str | None, values: Sequence[float]) -> Annotation:
    """Read a box (centre and size), or the corners of a polygon, all as shares of the photograph."""
    if name is None:
        raise _RefusedError("its class has no name")
    if len(values) in {4, 5}:  # a fifth is a confidence
        x, y, width, height = values[:4]
        return Annotation(name, category, _checked((x - width / 2, y - height / 2, x + width / 2, y + height / 2)))
    if len(values) < 6 or len(values) % 2:
        raise _RefusedError("its line has neither four numbers nor corners")
    box = _checked((min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])))
    return Annotation(name, category, box, _polygons([values], 1, 1))
