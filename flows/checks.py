"""What is checked before any work of the factory, so that a wrong recipe, camera or place is refused at once."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aura.errors import DatasetConflictError, InvalidInputError
from aura.reconstruct import Reconstructor
from aura.sensor.catalog import load_profile
from aura.sensor.profile import SensorProfile
from aura.sensor.simulate import draw_capture
from storage.corpora.corpus import check_corpus
from storage.corpora.index import has_index
from storage.datasets.creation import find_dataset
from storage.datasets.dataset import Dataset
from storage.labelling.annotations import read_annotations
from storage.objects.location import locate
from storage.recipe import Recipe


@dataclass(frozen=True)
class Checked:
    """What was found good before any work.

    Attributes:
        recipe: the recipe.
        dataset_url: where the dataset lies or shall lie.
        profiles: sensor profile of each of the recipe's cameras, by the recipe's word for it.
        model_digest: of the method and its weights.
        dataset: the dataset, if the recipe has made or begun it.
    """

    recipe: Recipe
    dataset_url: str
    profiles: Mapping[str, SensorProfile]
    model_digest: str
    dataset: Dataset | None


def check(recipe: Recipe, dataset_url: str) -> Checked:
    """Check everything that can be checked before any work; nothing is written.

    Raises:
        AuraError: the first thing that is wrong, in one sentence that says what to do.
    """
    place = locate(dataset_url)
    if place.is_web:
        raise InvalidInputError(f"A dataset cannot be written to {place.url}; give a folder or an s3:// URL.")
    url = place.url
    _require_apart(recipe.corpus, url)
    profiles = {camera: load_profile(camera) for camera in recipe.cameras}
    for profile in profiles.values():
        _require_captures(profile, recipe)
    if recipe.annotations is not None:
        read_annotations(recipe.annotations.source)  # they are needed last; that they are wrong is said first
    model_digest = Reconstructor.load(recipe.method, Path(recipe.weights) if recipe.weights else None).digest
    dataset = find_dataset(url, recipe, model_digest)
    if dataset is not None:
        _require_same_profiles(dataset, profiles)
    elif not has_index(url, recipe):  # else the corpus was read by a run that was stopped
        check_corpus(recipe.corpus, recipe.corpus_column, recipe.licence_column)
    return Checked(recipe, url, profiles, model_digest, dataset)


def _require_apart(corpus_url: str, dataset_url: str) -> None:
    corpus, dataset = f"{corpus_url}/", f"{dataset_url}/"
    if dataset.startswith(corpus) or corpus.startswith(dataset):
        raise InvalidInputError(
            f"The dataset {dataset_url} and the corpus {corpus_url} lie inside each other, so that made files would be "
            "taken for photographs; choose a place for the dataset outside the corpus."
        )


def _require_captures(profile: SensorProfile, recipe: Recipe) -> None:
    """Take a picture at each end of the recipe's ranges: what a worker would refuse is refused here."""
    isos = recipe.iso if isinstance(recipe.iso, tuple) else (recipe.iso,)
    lights = [(kelvin, kelvin) for kelvin in recipe.illuminant_kelvin] if recipe.illuminant_kelvin else [None]
    model = "none" if recipe.noise == "none" else recipe.noise_model
    for iso, light in itertools.product(isos, lights):
        draw_capture(profile, iso, seed=0, noise_model=model, illuminant_kelvin=light)


def _require_same_profiles(dataset: Dataset, profiles: Mapping[str, SensorProfile]) -> None:
    for profile in profiles.values():
        if dataset.profiles.get(profile.name) != profile.model_dump(mode="json"):
            raise DatasetConflictError(
                f"{dataset.location.url} was begun with another profile of the camera {profile.name}. Give back that "
                "profile, or make a new dataset."
            )
