import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aura.color import linear_to_srgb
from aura.errors import InvalidInputError
from aura.unprocess import UPI_DIGITAL_GAIN, linearise, upi


def test_linearise_undoes_the_srgb_curve() -> None:
    linear = torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(linearise(linear_to_srgb(linear)), linear, atol=1e-6, rtol=1e-4)


@given(st.floats(0, 0.85))
def test_upi_undoes_the_isp_of_its_paper_below_the_highlights(level: float) -> None:
    exposed = torch.tensor(level, dtype=torch.float64) / UPI_DIGITAL_GAIN * UPI_DIGITAL_GAIN
    encoded = exposed ** (1 / 2.2)
    display = 3 * encoded**2 - 2 * encoded**3
    recovered = upi(display.expand(1, 3, 1, 1)) / UPI_DIGITAL_GAIN
    torch.testing.assert_close(recovered, exposed.expand(1, 3, 1, 1), atol=1e-5, rtol=1e-4)


def test_upi_keeps_black_and_white_and_rises_between() -> None:
    ramp = torch.linspace(0, 1, 256).expand(1, 3, 1, 256)
    recovered = upi(ramp)[0, 0, 0]
    assert float(recovered[0]) == pytest.approx(0, abs=1e-6)
    assert float(recovered[-1]) == pytest.approx(1, abs=1e-6)
    assert bool((recovered.diff() > 0)[1:].all())


@pytest.mark.parametrize("inverse", [linearise, upi])
def test_values_outside_the_range_are_clipped_and_bytes_refused(inverse) -> None:  # type: ignore[no-untyped-def]  # two functions
    result = inverse(torch.tensor([-0.5, 1.5]).expand(1, 3, 1, 2))
    torch.testing.assert_close(result[..., 1], torch.ones(1, 3, 1))
    assert float(result.min()) >= 0
    with pytest.raises(InvalidInputError, match="uint8"):
        inverse(torch.zeros(3, 4, 4, dtype=torch.uint8))
