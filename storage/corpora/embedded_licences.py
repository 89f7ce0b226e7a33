"""The licence that a photograph itself names, in its XMP packet (ISO 16684-1)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final
from xml.etree import ElementTree as ET

_LARGEST: Final = 1 << 20
_RDF: Final = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_LICENCE: Final = ("{http://creativecommons.org/ns#}license", "{http://web.resource.org/cc/}license")
_RIGHTS: Final = "{http://ns.adobe.com/xap/1.0/rights/}"
_NAMES: Final = (*_LICENCE, f"{_RIGHTS}WebStatement", f"{_RIGHTS}UsageTerms")
"""By how surely they name a licence; ``dc:rights`` and EXIF's copyright say whose a photograph is, not what one may."""
_CREATIVE_COMMONS: Final = re.compile(
    r"https?://(?:www\.)?creativecommons\.org/(?:licenses/(?P<kind>by(?:-nc)?(?:-nd|-sa)?)|publicdomain/zero)"
    r"/(?P<version>\d\.\d)/?(?:(?:deed|legalcode)[^/]*)?",
    re.IGNORECASE,
)


def embedded_licence(data: bytes) -> str | None:
    """Find the licence that a photograph's first XMP packet names.

    The packet is looked for as such, whatever the container (ISO 16684-1, 7.3): JPEG, PNG, WebP, TIFF, HEIF, AVIF and
    JPEG 2000 keep it as it is. One that is compressed, or no XML, names none.

    Args:
        data: bytes of the photograph.

    Returns:
        ``cc:license``, else ``xmpRights:WebStatement``, else ``xmpRights:UsageTerms``; an address of an international
        Creative Commons licence as its SPDX identifier, such as CC-BY-4.0. None if there is none of them.
    """
    begin = data.find(b"<rdf:RDF")
    end = data.find(b"</rdf:RDF>", begin, begin + _LARGEST) if begin >= 0 else -1
    packet = data[begin : end + len(b"</rdf:RDF>")] if end >= 0 else b""
    if not packet or b"<!" in packet:  # what could be made larger than it is
        return None
    try:
        found = list(_named(ET.fromstring(packet)))  # noqa: S314 -- it declares no entities
    except (ET.ParseError, ValueError, LookupError):
        return None
    for wanted in _NAMES:
        for name, text in found:
            if name == wanted and text:
                return _spdx(text)
    return None


def _named(packet: ET.Element) -> Iterator[tuple[str, str]]:
    """Yield names and texts: attributes of a description, its elements, and the first words of a list of languages."""
    for description in packet.iter(f"{_RDF}Description"):
        yield from ((name, value.strip()) for name, value in description.items())
        for element in description:
            words = element.get(f"{_RDF}resource") or element.text or ""
            listed = [each.text or "" for each in element.iter(f"{_RDF}li")]
            yield element.tag, (words.strip() or " ".join(listed[:1])).strip()


def _spdx(text: str) -> str:
    found = _CREATIVE_COMMONS.fullmatch(text)
    if found is None:
        return text
    return f"CC-{found['kind'].upper()}-{found['version']}" if found["kind"] else f"CC0-{found['version']}"
