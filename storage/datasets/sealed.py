"""JSON documents that carry their own digest and have one byte form, so that any changed bit is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from aura.errors import IntegrityError
from storage.recipe import canonical_json

_SEAL: Final = "content_sha256"


def seal(document: Mapping[str, Any]) -> bytes:
    """Encode a document of JSON types with a digest of all it says."""
    content = dict(document)
    return _encode(content | {_SEAL: hashlib.sha256(canonical_json(content)).hexdigest()})


def unseal(data: bytes, name: str) -> dict[str, Any]:
    """Decode what :func:`seal` made, without the digest.

    Args:
        data: the whole document.
        name: what to call it in an error.

    Raises:
        IntegrityError: a byte is not as it was written.
    """
    try:
        document = json.loads(data)
        # the digest covers what is said, the comparison how it is written
        intact = _encode(document) == data
        said = document.pop(_SEAL)
        intact = intact and said == hashlib.sha256(canonical_json(document)).hexdigest()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IntegrityError(f"{name} is damaged. Restore it from a copy.") from error
    if not intact:
        raise IntegrityError(f"{name} is damaged. Restore it from a copy.")
    content: dict[str, Any] = document
    return content


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True, allow_nan=False).encode()


def seal_page(page: str) -> bytes:
    """Encode an HTML page with a last comment that holds the digest of all before it."""
    data = page.encode()
    return data + _comment(data)


def page_is_intact(data: bytes) -> bool:
    """Tell whether the bytes of :func:`seal_page` are as they were written."""
    length = len(_comment(b""))
    return len(data) > length and _comment(data[:-length]) == data[-length:]


def _comment(data: bytes) -> bytes:
    return f"\n<!-- sha256 {hashlib.sha256(data).hexdigest()} -->\n".encode()
