import pytest
import torch
from hypothesis import settings

from aura.perceptual import Lpips

settings.register_profile("aura", deadline=None)  # a loaded machine is not a wrong result
settings.load_profile("aura")
torch.set_num_threads(1)  # on busy cores the threads of small kernels only wait for each other


@pytest.fixture(scope="session")
def lpips() -> Lpips:
    return Lpips()
