"""Keys of an S3 storage from a Prefect block, for those who keep them there instead of in the environment."""

import os
from functools import lru_cache
from typing import Any, Final

from prefect.utilities.asyncutils import run_coro_as_sync

from aura.errors import InvalidInputError
from flows.shards.one_at_a_time import one_at_a_time

BLOCK_VARIABLE: Final = "AURA_AWS_BLOCK"
"""Name of the environment variable that names the AWS Credentials block of prefect-aws to be used."""


def use_configured_block() -> None:
    """Put the keys of the block that ``AURA_AWS_BLOCK`` names into this process's environment; without it, do nothing.

    The environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL) and the profiles of ``~/.aws`` need no
    block. A reference to a block in a deployment's job variables is no substitute: ``prefect deploy`` looks it up at
    once and stores the keys with the deployment, for everybody to read.

    Raises:
        InvalidInputError: prefect-aws is not installed, or the server has no such block; keys are never in it.
    """
    if name := os.environ.get(BLOCK_VARIABLE):
        os.environ.update(_load(name))


@one_at_a_time
@lru_cache(maxsize=1)
def _load(name: str) -> dict[str, str]:
    try:
        from prefect_aws import AwsCredentials  # noqa: PLC0415 -- an optional dependency
    except ImportError:
        raise InvalidInputError(
            f"{BLOCK_VARIABLE} is set, which needs prefect-aws: pip install 'aura-raw[aws]', or unset it and give the "
            "keys by the environment or an AWS profile."
        ) from None
    try:
        block: Any = run_coro_as_sync(AwsCredentials.aload(name))
    except ValueError as error:
        raise InvalidInputError(
            f"{BLOCK_VARIABLE} is {name!r}, and the Prefect server has no AWS Credentials block of that name "
            f"({type(error).__name__}). Make one in the UI under Blocks, or correct the name."
        ) from None
    secret = block.aws_secret_access_key
    found = {
        "AWS_ACCESS_KEY_ID": block.aws_access_key_id,
        "AWS_SECRET_ACCESS_KEY": secret.get_secret_value() if secret else None,
        "AWS_SESSION_TOKEN": block.aws_session_token,
        "AWS_PROFILE": block.profile_name,
        "AWS_REGION": block.region_name,
        "AWS_ENDPOINT_URL": block.aws_client_parameters.endpoint_url,
    }
    return {variable: value for variable, value in found.items() if value}
