"""Whatever a storage library raises, as one clear sentence that never holds a credential."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import ClientError as HttpError
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from aura.errors import AuraError, ForbiddenHostError, MissingFileError, StorageAccessError, StorageError
from storage.objects.web_addresses import find_forbidden

_NO_ROOM: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY: Final = {errno.EROFS, errno.EACCES, errno.EPERM}
_CREDENTIAL_VARIABLES: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

CREDENTIAL_IN_QUERY: Final = re.compile(
    r"([?&][^=&\s]*(?:signature|credential|token|secret|password|sig|key)[^=&\s]*=)([^&\s'\"]*)", re.IGNORECASE
)
"""What a URL that was signed, or holds a key, says behind its question mark."""


@contextmanager
def refusals(url: str, action: str) -> Iterator[None]:
    """Turn whatever a storage library raises inside the block into one AuraError.

    Args:
        url: the place, as the message shall name it.
        action: a verb for the message: ``read``, ``write``, ``list``, ``use``.

    Raises:
        MissingFileError: what was asked for, or its bucket, is not there.
        StorageAccessError: the credentials were refused or are missing.
        ForbiddenHostError: a server of the web is at an address that is not asked.
        StorageError: anything else that a storage says, and libraries' own failures to reach it.
    """
    try:
        yield
    except AuraError:
        raise
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise StorageAccessError(
            f"Cannot {action} {url}: no credentials found. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from error
    except (OSError, HttpError) as error:
        if forbidden := find_forbidden(error):
            raise ForbiddenHostError(_forbidden_message(url, action, forbidden)) from error
        raise _refusal_of(url, action, error) from error
    except (BotoCoreError, ClientError) as error:
        raise StorageError(_refusal_message(url, action, error)) from error


def _refusal_of(url: str, action: str, error: Exception) -> AuraError:
    if isinstance(error, FileNotFoundError):
        return MissingFileError(_missing_message(url, action))
    if isinstance(error, PermissionError):
        return StorageAccessError(_access_message(url, action, error))
    return StorageError(_refusal_message(url, action, error))


def _forbidden_message(url: str, action: str, error: OSError) -> str:
    return (
        f"Cannot {action} {without_credentials(url)}: {error}, which is never asked. Take it out, or serve it at "
        "another address."
    )


def _missing_message(url: str, action: str) -> str:
    if url.startswith("s3") and url.count("/") == 2:
        return f"Cannot {action} {url}: the bucket does not exist. Create it or correct its name."
    return f"Cannot {action} {url}: it is not there. Check the path."


def _access_message(url: str, action: str, error: PermissionError) -> str:
    if "://" in url:
        return (
            f"Cannot {action} {url}: the storage refused the credentials ({without_credentials(str(error))}). "
            "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they are allowed to do."
        )
    return f"Cannot {action} {url}: permission denied. Change its permissions or choose another place."


def _refusal_message(url: str, action: str, error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in _NO_ROOM:
        return (
            f"Cannot {action} {url}: no room left ({os.strerror(number)}). Free some space, then run again to resume."
        )
    if number in _READ_ONLY:
        return f"Cannot {action} {url}: {os.strerror(number)}. Change its permissions or choose another place."
    if isinstance(error, NotADirectoryError):
        return f"Cannot {action} {url}: a part of the path is a file. Choose another place."
    said = next(iter(without_credentials(str(error)).splitlines()), type(error).__name__)  # some say a page
    return f"Cannot {action} {url}: {said} ({type(error).__name__}). Check that it is up, then run again to resume."


def without_credentials(text: str) -> str:
    """Return ``text`` with every credential of the environment, and any that a URL holds, blotted out."""
    for variable in _CREDENTIAL_VARIABLES:
        value = os.environ.get(variable)
        if value:
            text = text.replace(value, "***")
    text = CREDENTIAL_IN_QUERY.sub(r"\1***", text)
    return re.sub(r"://[^/\s@]+@", "://***@", text).strip().rstrip(".")


def says_exists(error: OSError) -> bool:
    """Tell whether a storage refused a conditional write because the object is there already."""
    if isinstance(error, FileExistsError):
        return True
    cause = error.__cause__
    code = cause.response.get("Error", {}).get("Code") if isinstance(cause, ClientError) else None
    # 409: somebody else's conditional write of the same key is in flight and won
    return code in {"PreconditionFailed", "ConditionalRequestConflict", "412"}
