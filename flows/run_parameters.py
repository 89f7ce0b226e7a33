"""What flows that make a dataset take alike: the dataset's place, and a name of the run that says both its ends."""

from typing import Annotated, Any

import prefect.runtime
from pydantic import AfterValidator

from storage.objects.location import locate
from storage.recipe import Recipe


def _url(text: str) -> str:
    return locate(text).url


Place = Annotated[str, AfterValidator(_url)]
"""A path or a URL, made absolute before anything is done."""


def run_name(words: str) -> str:
    """Name the flow run: ``{corpus}`` and ``{dataset}`` in ``words`` become the last parts of their places."""
    parameters: dict[str, Any] = prefect.runtime.flow_run.parameters
    recipe = parameters["recipe"]
    corpus = recipe.corpus if isinstance(recipe, Recipe) else recipe["corpus"]
    return words.format(corpus=locate(corpus).name, dataset=locate(parameters["dataset"]).name)
