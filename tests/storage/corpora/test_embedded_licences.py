"""The licence in a photograph's own XMP: found in every container, believed only where it says what one may."""

import io
from pathlib import Path
from typing import Any, Final

import pillow_heif
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin
from PIL.PngImagePlugin import PngInfo

from storage.corpora.embedded_licences import embedded_licence
from storage.recipe import load_recipe
from tests.storage.conftest import read_corpus, save_image

BY: Final = "https://creativecommons.org/licenses/by/4.0/"


def packet(inner: str = "", **attributes: str) -> bytes:
    said = " ".join(f'{name.replace("_", ":")}="{value}"' for name, value in attributes.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:cc="http://creativecommons.org/ns#" '
        f'xmlns:xmpRights="http://ns.adobe.com/xap/1.0/rights/" {said}>{inner}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta><?xpacket end='w'?>"
    ).encode()


def photograph(kind: str, xmp: bytes) -> bytes:
    image, sink = Image.new("RGB", (64, 64), (90, 60, 30)), io.BytesIO()
    if kind == "HEIF":
        pillow_heif.from_pillow(image).save(sink, xmp=xmp)
        return sink.getvalue()
    options: dict[str, Any] = {"xmp": xmp}
    if kind == "PNG":
        options = {"pnginfo": PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    if kind == "TIFF":
        directory = TiffImagePlugin.ImageFileDirectory_v2()
        directory[700] = xmp
        options = {"tiffinfo": directory}
    image.save(sink, kind, **options)
    return sink.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_it_is_found_in_every_container(kind: str) -> None:
    assert embedded_licence(photograph(kind, packet(f'<cc:license rdf:resource="{BY}"/>'))) == "CC-BY-4.0"
    assert embedded_licence(photograph(kind, packet())) is None


def test_the_surest_word_counts() -> None:
    terms = (
        "<xmpRights:UsageTerms><rdf:Alt><rdf:li xml:lang='x-default'> Ask us </rdf:li></rdf:Alt></xmpRights:UsageTerms>"
    )
    assert embedded_licence(packet(terms)) == "Ask us"
    assert embedded_licence(packet(terms, xmpRights_WebStatement="")) == "Ask us"
    assert (
        embedded_licence(packet(terms, xmpRights_WebStatement="https://example.org/terms"))
        == "https://example.org/terms"
    )
    said = f"<cc:license>{BY}</cc:license>"
    assert embedded_licence(packet(terms + said, xmpRights_WebStatement="https://example.org/terms")) == "CC-BY-4.0"
    assert embedded_licence(packet("<cc:licence>misspelt</cc:licence>")) is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://creativecommons.org/licenses/by-nc-sa/2.0", "CC-BY-NC-SA-2.0"),
        ("https://www.creativecommons.org/licenses/by-nd/4.0/deed.de", "CC-BY-ND-4.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/legalcode", "CC0-1.0"),
        ("https://creativecommons.org/licenses/by/3.0/de/", "https://creativecommons.org/licenses/by/3.0/de/"),
        ("https://creativecommons.org/licenses/by/4.0.example.org", "https://creativecommons.org/licenses/by/4.0.example.org"),
    ],
)  # fmt: skip
def test_international_creative_commons_licences_have_their_spdx_identifier(address: str, expected: str) -> None:
    assert embedded_licence(packet(f'<cc:license rdf:resource="{address}"/>')) == expected


def test_what_declares_entities_is_not_read() -> None:
    bomb = b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><!DOCTYPE a [<!ENTITY b "c">]></rdf:RDF>'
    assert embedded_licence(bomb) is None


@given(st.binary(max_size=200), st.integers(0, 800), st.binary(max_size=8))
def test_whatever_stands_there_nothing_breaks(noise: bytes, where: int, instead: bytes) -> None:
    whole = packet(f'<cc:license rdf:resource="{BY}"/>')
    assert embedded_licence(noise) is None
    found = embedded_licence(noise + whole[:where] + instead + whole[where + len(instead) :])
    assert found is None or isinstance(found, str)


def test_photographs_of_the_coco_dataset_name_theirs(data_dir: Path) -> None:
    photographs = data_dir / "srgb" / "coco" / "images"
    said = {path.stem: embedded_licence(path.read_bytes()) for path in photographs.glob("*.jpg")}
    assert {name: licence for name, licence in said.items() if licence} == {
        "000000001296": "http://www.flickr.com/creativecommons/"
    }


def test_it_counts_where_nothing_else_names_one_and_decides_what_may_be_used(tmp_path: Path) -> None:
    corpus, asked = tmp_path / "photographs", {"embedded": True, "default": "ours"}
    corpus.mkdir()
    (corpus / "free.jpg").write_bytes(photograph("JPEG", packet(f'<cc:license rdf:resource="{BY}"/>')))
    (corpus / "theirs.webp").write_bytes(photograph("WEBP", packet(xmpRights_WebStatement="https://example.org/no")))
    save_image(corpus / "unsaid.png", 64, 64)

    def found(kept_in: str, **licences: Any) -> list[tuple[str | None, str | None]]:
        rows = read_corpus(corpus, tmp_path / kept_in, licences=licences).to_pylist()
        return [(row["licence"], row["reject_reason"]) for row in rows]

    assert found("all", **asked) == [("CC-BY-4.0", None), ("https://example.org/no", None), ("ours", None)]
    assert found("allowed", embedded=True, allowed=["CC-BY-4.0"]) == [
        ("CC-BY-4.0", None),
        ("https://example.org/no", "licence"),
        (None, "licence"),
    ]
    assert found("unasked", default="ours") == [("ours", None)] * 3


def test_recipes_that_do_not_ask_for_it_keep_their_digest() -> None:
    recipe = {"corpus": "/c", "licences.default": "CC0-1.0"}
    assert "embedded" not in load_recipe(None, recipe).deciding["licences"]
    assert load_recipe(None, recipe | {"licences.embedded": True}).deciding["licences"]["embedded"]
