"""The file system behind each scheme of a URL, opened as the environment says."""

from __future__ import annotations

import inspect
import json
import os
import re
from functools import lru_cache
from typing import Any

import fsspec

from aura.errors import InvalidInputError
from storage.objects.web_addresses import get_client


def storage_options(scheme: str, *, asynchronous: bool = False) -> dict[str, Any]:
    """Return what fsspec needs to open a file system, taken from the environment at this moment.

    For S3: ``AWS_ENDPOINT_URL`` (or ``AWS_ENDPOINT_URL_S3``), ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
    ``AWS_SESSION_TOKEN``, ``AWS_REGION``. What is not set is left to botocore's own search (profiles, roles).

    Raises:
        InvalidInputError: the endpoint is no URL.
    """
    options: dict[str, Any] = {"asynchronous": True} if asynchronous else {}
    if scheme not in {"s3", "s3a"}:
        return options
    environment = os.environ
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    if endpoint and not re.match(r"https?://[^/]", endpoint):
        raise InvalidInputError("AWS_ENDPOINT_URL is no URL; expected one such as http://127.0.0.1:8333.")
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    named = {
        "endpoint_url": endpoint,
        "key": environment.get("AWS_ACCESS_KEY_ID"),
        "secret": environment.get("AWS_SECRET_ACCESS_KEY"),
        "token": environment.get("AWS_SESSION_TOKEN"),
        "client_kwargs": {"region_name": region} if region else None,
    }
    options |= {key: value for key, value in named.items() if value}
    options["use_listings_cache"] = False  # another process may have written since
    options["config_kwargs"] = {
        "retries": {"mode": "standard", "max_attempts": 4},
        "connect_timeout": 5,
        "read_timeout": 60,
    }
    return options


def file_system(scheme: str, *, asynchronous: bool = False) -> Any:
    """Return the file system of a scheme: one for all threads of this process, as the environment asks for it now.

    Raises:
        InvalidInputError: its library is not installed, or it asks for more than a URL says.
    """
    options = storage_options(scheme, asynchronous=asynchronous)
    return _cached_file_system(os.getpid(), scheme, json.dumps(options, sort_keys=True))


@lru_cache(maxsize=32)
def _cached_file_system(process: int, scheme: str, options: str) -> Any:  # noqa: ARG001  # none may cross a fork
    # fsspec's own cache makes one for each thread, with connections of its own
    given = json.loads(options) | ({"get_client": get_client} if scheme in {"http", "https"} else {})
    try:
        kind = fsspec.get_filesystem_class(scheme)
        inspect.signature(kind.__init__).bind(None, **given)  # half-made ones complain again when they are collected
        return kind(skip_instance_cache=True, **given)
    except (ImportError, TypeError) as error:
        said = str(error).rstrip(".")
        raise InvalidInputError(f"{scheme}:// cannot be used here: {said}. Use a path or an s3:// URL.") from error
