import os
from pathlib import Path

import pytest
from hypothesis import settings

from aura.perceptual import Lpips

settings.register_profile("aura", deadline=None)  # a loaded machine is not a wrong result
settings.load_profile("aura")


@pytest.fixture(scope="session")
def lpips() -> Lpips:
    return Lpips()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    folder = Path(os.environ.get("AURA_DATA", Path(__file__).parents[2] / ".." / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"needs the data folder, which is not at {folder}; set AURA_DATA to it")
    return folder
