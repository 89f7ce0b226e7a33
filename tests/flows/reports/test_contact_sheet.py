import numpy as np
import pytest

from flows.reports.contact_sheet import COLUMNS, contact_sheet
from flows.reports.pictures import Triptych


def triptych(height: int, width: int) -> Triptych:
    colours = ((200, 0, 0), (0, 200, 0), (0, 0, 200))
    return Triptych({}, *(np.full((height, width, 3), colour, np.uint8) for colour in colours))


@pytest.mark.parametrize("width", [16, 300])
def test_every_column_has_words_above_it(width: int) -> None:
    sheet = contact_sheet([triptych(64, width), triptych(32, width)], 192).astype(int)
    # each column is where its colour is; greys have no colour of their own
    for channel in range(len(COLUMNS)):
        others = [each for each in range(3) if each != channel]
        coloured = (sheet[..., channel] - sheet[..., others].max(-1)) > 100
        rows, columns = np.flatnonzero(coloured.any(1)), np.flatnonzero(coloured.any(0))
        above = sheet[: rows[0], columns[0] : columns[-1]]
        assert above.max() > 200, "no white letters"
        assert above.min() >= 118, "letters lie on the grey"
        assert coloured.sum() == sum(min(192, width) * h for h in ((64, 32) if width < 192 else (41, 20)))


def test_a_sheet_of_nothing_still_says_its_columns() -> None:
    sheet = contact_sheet([], 192)
    assert sheet.shape[2] == 3
    assert sheet.max() > 200
