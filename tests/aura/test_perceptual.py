import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from aura.errors import InvalidInputError, MissingFileError, WeightsError
from aura.perceptual import Lpips


def read_srgb(path: Path) -> Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize(("name", "distance"), [("ex_p0", 0.7219), ("ex_p1", 0.1376)])
def test_the_published_pair_has_its_published_distance(
    lpips: Lpips, data_dir: Path, name: str, distance: float
) -> None:
    folder = data_dir / "weights"
    found = lpips(read_srgb(folder / "ex_ref.png"), read_srgb(folder / f"{name}.png"))
    assert float(found) == pytest.approx(distance, abs=1e-4)


def test_neither_lpips_nor_torchvision_is_imported() -> None:
    program = "import sys, aura.perceptual as p; p.Lpips(); print('lpips' in sys.modules, 'torchvision' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]


def test_building_it_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    Lpips()
    assert torch.equal(before, torch.get_rng_state())


def test_it_is_zero_for_equal_images_symmetric_and_finite_in_gradient_on_black(lpips: Lpips) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand(2, 2, 3, 40, 52, generator=generator)
    first[0] = 0
    first.requires_grad_()
    torch.testing.assert_close(lpips(first, first), torch.zeros(2))
    torch.testing.assert_close(lpips(first, second), lpips(second, first))
    torch.testing.assert_close(lpips(first, second[1:]), lpips(first, second[[1, 1]]))
    lpips(first, second).sum().backward()
    assert first.grad is not None
    assert bool(first.grad.isfinite().all())
    assert float(first.grad.abs().max()) > 0
    assert not any(parameter.requires_grad for parameter in lpips.parameters())


def test_it_refuses_what_alexnet_cannot_pool(lpips: Lpips) -> None:
    smallest = torch.zeros(1, 3, 31, 31)
    assert lpips(smallest, smallest).shape == (1,)
    with pytest.raises(InvalidInputError, match="30x64"):
        lpips(torch.zeros(1, 3, 30, 64), torch.zeros(1, 3, 30, 64))
    with pytest.raises(InvalidInputError, match=r"\(1, 4, 64, 64\)"):
        lpips(torch.zeros(1, 4, 64, 64), torch.zeros(1, 4, 64, 64))


def test_a_missing_or_foreign_trunk_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere\.safetensors"):
        Lpips(tmp_path / "nowhere.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"features.0.weight": torch.zeros(1)}, foreign)
    with pytest.raises(WeightsError, match="foreign"):
        Lpips(foreign)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"not safetensors")
    with pytest.raises(WeightsError, match="damaged"):
        Lpips(damaged)
