import logging
from collections.abc import Iterator
from typing import Any

import pytest
from prefect import Flow
from prefect.exceptions import ParameterTypeError

from flows.examination import verify_dataset
from flows.factory import factory
from flows.ingest import ingest


@pytest.fixture
def logged() -> Iterator[list[str]]:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("prefect.flows").addHandler(handler)
    yield said
    logging.getLogger("prefect.flows").removeHandler(handler)


@pytest.mark.parametrize(
    ("flow", "parameters"),
    [
        (verify_dataset, {"dataset": "https://me:sesame@host/x"}),
        (factory, {"recipe": {"corpus": "s3://ME:sesame@bucket/x"}, "dataset": "street"}),
        (ingest, {"recipe": {"corpus": "https://host/list.txt?X-Amz-Signature=sesame"}, "dataset": "street"}),
    ],
)
def test_a_refused_parameter_is_logged_without_its_credentials(
    flow: Flow[..., Any], parameters: dict[str, Any], logged: list[str]
) -> None:
    with pytest.raises(ParameterTypeError, match="holds credentials") as refusal:
        flow.validate_parameters(parameters)
    assert "sesame" not in str(refusal.value)
    assert "Parameter validation failed" in logged[0]
    assert "***" in logged[0]
    assert not any("sesame" in line for line in logged)
