"""Provenance as an XMP packet (ISO 16684-1), which any photo program keeps and shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from xml.etree import ElementTree as ET

PROVENANCE_NAMESPACE: Final = "urn:aura-raw:provenance:1"
_RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_META: Final = "adobe:ns:meta/"
_XMP: Final = "http://ns.adobe.com/xap/1.0/"
_DC: Final = "http://purl.org/dc/elements/1.1/"
_LANGUAGE: Final = "{http://www.w3.org/XML/1998/namespace}lang"
_PREFIXES: Final = {"aura": PROVENANCE_NAMESPACE, "rdf": _RDF, "x": _META, "xmp": _XMP, "dc": _DC}


def provenance_xmp(description: str, creator_tool: str, fields: Mapping[str, str]) -> bytes:
    """Build a packet with a description, the program, and named texts in a namespace of our own.

    Args:
        description: a sentence for people; becomes ``dc:description``.
        creator_tool: becomes ``xmp:CreatorTool``.
        fields: by name (an XML name); become ``aura:NAME``. What XML cannot hold is left out.

    Returns:
        UTF-8; the same for the same arguments.
    """
    for prefix, uri in _PREFIXES.items():
        ET.register_namespace(prefix, uri)
    packet = ET.Element(f"{{{_META}}}xmpmeta")
    about = ET.SubElement(ET.SubElement(packet, f"{{{_RDF}}}RDF"), f"{{{_RDF}}}Description", {f"{{{_RDF}}}about": ""})
    ET.SubElement(about, f"{{{_XMP}}}CreatorTool").text = _legal(creator_tool)
    for name, value in fields.items():
        ET.SubElement(about, f"{{{PROVENANCE_NAMESPACE}}}{name}").text = _legal(value)
    languages = ET.SubElement(ET.SubElement(about, f"{{{_DC}}}description"), f"{{{_RDF}}}Alt")
    ET.SubElement(languages, f"{{{_RDF}}}li", {_LANGUAGE: "x-default"}).text = _legal(description)
    body: bytes = ET.tostring(packet, encoding="utf-8", xml_declaration=False)
    # the identifier is that of the standard, the same in every packet
    return b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>' + body + b'<?xpacket end="r"?>'


def _legal(text: str) -> str:
    """Leave out what XML 1.0 cannot hold: control characters, lone surrogates."""
    kept = (character for character in text if character.isprintable() or character in "\t\n")
    return "".join(kept).encode("utf-8", "ignore").decode("utf-8")
