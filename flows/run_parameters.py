"""What flows that make a dataset take alike: the dataset's place, and a name of the run that says both its ends."""

import logging
from typing import Annotated, Any

import prefect.runtime
from pydantic import AfterValidator

from storage.objects.location import locate
from storage.objects.refusals import without_credentials
from storage.recipe import Recipe


class _WithoutCredentials(logging.Filter):
    """Blot credentials out of what Prefect logs: it repeats all parameters of a run when one of them is refused."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_credentials(record.getMessage()), ()
        return True


logging.getLogger("prefect.flows").addFilter(_WithoutCredentials())


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
