"""Samples under each other in one picture, which says by itself what its columns show."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flows.reports.pictures import DIFFERENCE_GAIN, Pixels, Triptych, shrunk

COLUMNS: Final = ("source", "RAW rendered", f"difference x{DIFFERENCE_GAIN}")
"""Headings of the three columns; the difference is taken after exposure and tone are matched."""

_GAP_PX: Final = 4
_GREY: Final = (118, 118, 118)
_WHITE: Final = (255, 255, 255)
_FONT_PX: Final = 14


def contact_sheet(pictured: Sequence[Triptych], side: int) -> Pixels:
    """Lay triptychs under each other, three pictures of at most ``side`` pixels a row; uint8 ``(H, W, 3)``.

    Above each column stands what it shows, before each row its number, from 1.
    """
    rows = [
        [shrunk(picture, side) for picture in (sample.source, sample.rendered, sample.difference)]
        for sample in pictured
    ]
    font = ImageFont.load_default(_FONT_PX)
    margin = round(font.getlength(str(len(rows)))) + 2 * _GAP_PX
    widest = max((row[0].width for row in rows), default=0)
    width = max(widest, *(round(font.getlength(title)) + 2 * _GAP_PX for title in COLUMNS))
    top = _FONT_PX + 2 * _GAP_PX
    height = top + sum(row[0].height + _GAP_PX for row in rows)
    sheet = Image.new("RGB", (margin + 3 * (width + _GAP_PX), height), _GREY)
    draw = ImageDraw.Draw(sheet)
    lefts = [margin + column * (width + _GAP_PX) for column in range(3)]
    for left, title in zip(lefts, COLUMNS, strict=True):
        draw.text((left + width / 2, top / 2), title, _WHITE, font, anchor="mm")
    for number, row in enumerate(rows, 1):
        draw.text((margin / 2, top + _FONT_PX / 2), str(number), _WHITE, font, anchor="mm")
        for left, image in zip(lefts, row, strict=True):
            sheet.paste(image, (left + (width - image.width) // 2, top))
        top += row[0].height + _GAP_PX
    return np.asarray(sheet)
