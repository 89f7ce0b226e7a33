"""Licences of photographs, as lists, tables, tars and they themselves name them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from aura.errors import RejectedImageError
from storage.corpora.embedded_licences import embedded_licence
from storage.corpora.sources import Content, Source
from storage.recipe import Licences

NOT_ALLOWED: Final = "licence"
_LONGEST: Final = 256


def licence_text(value: Any) -> str | None:
    """Return a licence as a line that every table can hold; None where nothing is said."""
    text = "" if value is None else str(value).strip()[:_LONGEST]
    return (text if text.isprintable() else ascii(text)) or None


def judge(found: Iterator[tuple[Source, Content]], licences: Licences | None) -> Iterator[tuple[Source, Content]]:
    """Give photographs the licence of those that name none, and refuse what may not be used."""
    for source, content in found:
        if licences is None:
            yield source, content
            continue
        embedded = embedded_licence(content) if licences.embedded and isinstance(content, bytes) else None
        licensed = replace(source, licence=source.licence or licence_text(embedded) or licences.default)
        refused = isinstance(content, RejectedImageError)  # a damaged archive is damaged under any licence
        yield licensed, content if refused else refusal(licensed.licence, licences) or content


def refusal(licence: str | None, licences: Licences) -> RejectedImageError | None:
    """Say why photographs of a licence are not used, or None."""
    if licences.allows(licence):
        return None
    said = "It names no licence" if licence is None else f"Its licence is {licence}"
    return RejectedImageError(NOT_ALLOWED, f"{said}; allowed are {', '.join(licences.allowed or ())}.")
