"""The cameras that come with the package, and profiles from a user's file."""

from __future__ import annotations

import difflib
import functools
from importlib import resources
from pathlib import Path

import yaml
from pydantic import ValidationError

from aura.errors import InvalidInputError, MissingFileError, UnknownCameraError
from aura.sensor.profile import SensorProfile

_FILE_SUFFIXES = frozenset({".yaml", ".yml", ".json"})


@functools.cache
def profile_names() -> tuple[str, ...]:
    """Names of the profiles that come with the package, sorted."""
    return tuple(sorted(file.name.removesuffix(".json") for file in _folder().iterdir() if file.name.endswith(".json")))


def load_profile(name_or_path: str | Path) -> SensorProfile:
    """Load a profile by name, or from a YAML or JSON file of the same form.

    Args:
        name_or_path: a name of :func:`profile_names`, or a path that ends in ``.yaml``, ``.yml`` or ``.json``.

    Raises:
        UnknownCameraError: no profile has this name; the message suggests close ones.
        MissingFileError: the file is not there.
        InvalidInputError: the file is not a profile; the message names the fields.
    """
    if Path(name_or_path).suffix.lower() in _FILE_SUFFIXES:
        return _load_file(Path(name_or_path))
    return _load_packaged(str(name_or_path))


def profile_yaml(profile: SensorProfile) -> str:
    """Write a profile as the YAML that :func:`load_profile` reads."""
    return yaml.safe_dump(profile.model_dump(mode="json"), sort_keys=False)


@functools.cache
def _load_packaged(name: str) -> SensorProfile:
    if name not in profile_names():
        close = difflib.get_close_matches(name.lower(), profile_names(), n=3, cutoff=0.4)
        hint = f"Did you mean {' or '.join(close)}?" if close else "`aura cameras` lists all."
        raise UnknownCameraError(f"No camera is named {name!r}. {hint} A path to a YAML file works too.")
    return SensorProfile.model_validate_json((_folder() / f"{name}.json").read_bytes())


def _load_file(path: Path) -> SensorProfile:
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFileError(f"No camera profile at {path}. Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark is not None else ""
        raise InvalidInputError(
            f"{path} is not valid YAML{line}; `aura cameras show NAME --yaml` prints a profile to copy."
        ) from error
    try:
        return SensorProfile.model_validate(fields)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'profile'}: {e['msg']}" for e in error.errors())
        raise InvalidInputError(f"{path} is not a camera profile: {faults}.") from error


def _folder() -> resources.abc.Traversable:
    return resources.files("aura.sensor") / "profiles"
