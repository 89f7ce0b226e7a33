import json
import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from aura.bayer import pack
from aura.errors import InvalidInputError
from aura.reconstruct import Reconstructor
from aura.sensor.catalog import load_profile
from examples.denoise.__main__ import command
from examples.denoise.evaluation import evaluate
from examples.denoise.network import Denoiser, noise_sigma
from examples.denoise.real_raw import write_real_raw
from examples.denoise.training import Schedule, load_denoiser, onto, train
from flows.shards.shard import synthesize_shard
from storage.corpora.index import index_batches
from storage.corpora.ingest import ingest
from storage.datasets.creation import create_or_open
from storage.datasets.plan import plan_shards, write_plan
from storage.datasets.publishing import publish
from storage.reading.cutting import Cutting
from storage.reading.loading import RawLoader
from storage.reading.map_style import RawDataset
from storage.reading.streaming import RawStream, Source
from storage.recipe import load_recipe
from tests.conftest import S3Server
from tests.storage.conftest import CAMERA, save_image

NIGHT = {"iso": (6400, 6400), "exposure_ev": (-2.0, -2.0)}


@pytest.fixture
def prefix(s3_environment: S3Server) -> str:
    return f"s3://{s3_environment.bucket}/{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def raw_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two headerless dumps of smooth light, GRBG, 10 bits above a black of 64."""
    folder = tmp_path_factory.mktemp("raw")
    rows, columns = np.mgrid[0:96, 0:192]
    entries = []
    for number in range(2):
        light = 0.4 + 0.3 * np.sin(number + rows / 19) * np.cos(columns / 23)
        (folder / f"{number}.raw").write_bytes(np.rint(64 + light * 959).astype("<u2").tobytes())
        entries.append(
            {"file": f"{number}.raw", "reader": "headerless uint16 little-endian", "camera": "test", "shape": [96, 192]}
            | {"cfa_pattern": "GRBG", "black_level": 64, "white_level": 1023}
        )
    (folder / "manifest.json").write_text(json.dumps(entries))
    return folder


def write_synthesized(folder: Path, url: str) -> str:
    for number in range(3):
        save_image(folder / f"{number}.png", 96, 192, seed=number)
    sides = {"canvas.height": 96, "canvas.width": 96}
    recipe = load_recipe(
        None,
        {"corpus": str(folder), "cameras": [CAMERA], "noise": "on_read", "method": "linearise", "lpips_share": 0.0}
        | sides,
    )
    ingest(url, recipe)
    plan = write_plan(url, plan_shards(index_batches(url), recipe))
    dataset = create_or_open(url, recipe, Reconstructor.load("linearise").digest, [load_profile(CAMERA)], plan.samples)
    synthesize_shard(dataset.location.url, 0)
    publish(dataset)
    return url


def loader(sources: list[Source]) -> RawLoader:
    cutting = Cutting(crop=32, augment="rename_cfa", clean=True, **NIGHT)
    return RawLoader(RawStream(sources, batch_size=4, cutting=cutting, crops_per_sample=4, seed=3), num_workers=0)


def test_it_learns_from_s3_by_real_and_synthesized_raw_and_goes_on_exactly(
    prefix: str, raw_files: Path, tmp_path: Path
) -> None:
    real = write_real_raw(raw_files, f"{prefix}/real", canvas=96).location.url
    sources = [Source(write_synthesized(tmp_path / "photographs", f"{prefix}/made"), 0.5), Source(real, 0.5)]
    schedule = Schedule(steps=60, learning_rate=5e-3, width=8, checkpoint_every=20)
    losses: list[float] = []
    whole = train(loader(sources), tmp_path / "whole", schedule, lambda _, loss: losses.append(loss))
    assert np.mean(losses[-15:]) < 0.7 * np.mean(losses[:15])

    scores = evaluate(load_denoiser(whole), real, 6400, exposure_ev=-2.0, crop=48, seed=9)
    assert len(scores) == 4
    assert all(score.psnr_db > score.noisy_psnr_db + 3 for score in scores)

    def stop(done: int, _: float) -> None:
        if done == 27:  # seven steps are lost
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(loader(sources), tmp_path / "stopped", schedule, stop)
    resumed = train(loader(sources), tmp_path / "stopped", schedule)
    expected, found = load_file(whole), load_file(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)

    with pytest.raises(InvalidInputError, match="another schedule"):
        train(loader(sources), tmp_path / "stopped", Schedule(steps=61))


def test_the_command_mixes_a_folder_of_raw_files_in_and_judges(raw_files: Path, tmp_path: Path) -> None:
    url = write_synthesized(tmp_path / "photographs", str(tmp_path / "made"))
    numbers = ["--steps", "3", "--batch", "2", "--crop", "16", "--width", "4", "--workers", "0"]
    folders = [tmp_path / name for name in ("mine", "others")]
    for number, folder in enumerate(folders):
        folder.mkdir()
        (folder / "photograph.raw").write_bytes((raw_files / f"{number}.raw").read_bytes())
        entry = json.loads((raw_files / "manifest.json").read_text())[number] | {"file": "photograph.raw"}
        (folder / "manifest.json").write_text(json.dumps([entry]))
    usual = [url, "--out", str(tmp_path / "run"), "--real", str(folders[0]), "--canvas", "96", *numbers]
    refused = CliRunner().invoke(command, [*usual, "--validation", str(raw_files)])
    assert isinstance(refused.exception, InvalidInputError)
    assert "1 of the 2 files to judge by are trained on too, such as 0.raw" in str(refused.exception)
    shutil.rmtree(tmp_path / "run" / "validation")
    done = CliRunner().invoke(command, [*usual, "--validation", str(folders[1])])
    assert done.exit_code == 0, done.output
    assert "denoised" in done.output
    assert (tmp_path / "run" / "denoiser.safetensors").is_file()


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    refused = CliRunner().invoke(command, [str(tmp_path / "none"), "--device", "cuda:99"])
    assert isinstance(refused.exception, InvalidInputError)
    assert "Device is 'cuda:99'" in str(refused.exception)


def test_network_and_noise_stay_on_the_device_of_the_batch() -> None:
    facts = {f"noise_{name}": torch.ones(2) for name in ("system_gain_dn_per_electron", "read_sigma_dn")}
    facts |= {f"noise_{name}": torch.ones(2) for name in ("row_sigma_dn", "quantisation_step_dn")}
    facts |= {f"{name}_level_dn": torch.ones(2, 4) for name in ("black", "white")}
    batch = onto(facts | {"raw": torch.ones(2, 4, 24, 32), "sample_id": ["a", "b"]}, "meta")
    assert batch["sample_id"] == ["a", "b"]
    denoised = Denoiser(4).to("meta")(batch["raw"], noise_sigma(batch["raw"], batch))
    assert denoised.device.type == "meta"
    assert denoised.shape == (2, 4, 24, 32)


def test_real_raw_is_the_light_of_its_file_in_another_cameras_numbers(raw_files: Path, tmp_path: Path) -> None:
    dataset = RawDataset(write_real_raw(raw_files, str(tmp_path / "real"), canvas=96).location.url)
    assert len(dataset) == 4
    for item in range(4):
        facts, sample = dataset.facts(item), dataset[item]
        mosaic = np.fromfile(raw_files / facts["source_uri"], "<u2").reshape(96, 192)
        left = facts["crop_left_px"]
        packed = pack(torch.from_numpy(mosaic.astype(np.float32)), "GRBG")[:, :, left // 2 : left // 2 + 48]
        range_dn = (sample["white_level_dn"] - sample["black_level_dn"]).min()
        assert (sample["raw"] - (packed - 64) / 959).abs().max() <= 0.51 / range_dn
        assert (sample["cfa_pattern"], sample["noise_model"]) == ("GRBG", "none")


@pytest.mark.parametrize(("height", "width"), [(8, 12), (9, 14)])
def test_a_dark_image_is_a_noisier_one_and_nothing_else_whatever_the_size(height: int, width: int) -> None:
    torch.manual_seed(0)
    network, noisy = Denoiser(4), torch.rand(2, 4, height, width)
    sigma = 0.1 + 0.1 * torch.rand_like(noisy)
    denoised = network(noisy, sigma)
    assert denoised.shape == noisy.shape
    torch.testing.assert_close(network(noisy / 64, sigma / 64), denoised / 64)


def test_the_noise_told_is_that_of_photons_readout_rows_and_rounding() -> None:
    facts = {name: torch.tensor([value, value]) for name, value in (
        ("noise_system_gain_dn_per_electron", 2.0), ("noise_read_sigma_dn", 3.0), ("noise_row_sigma_dn", 1.5),
        ("noise_quantisation_step_dn", 4.0),
    )}  # fmt: skip
    facts |= {"white_level_dn": torch.full((2, 4), 4096.0), "black_level_dn": torch.tensor([[96.0] * 4, [256.0] * 4])}
    raw = torch.full((2, 4, 8, 8), 0.5)
    raw[1] = -0.01  # below black there are no photons
    told = noise_sigma(raw, facts)
    dark = 3.0**2 + 1.5**2 + 4.0**2 / 12
    assert torch.allclose(told[0], torch.tensor((2.0 * 0.5 * 4000 + dark) ** 0.5 / 4000))
    assert torch.allclose(told[1], torch.tensor(dark**0.5 / 3840))


def test_the_noise_told_is_the_noise_added(raw_files: Path, tmp_path: Path) -> None:
    url = write_real_raw(raw_files, str(tmp_path / "real"), canvas=96).location.url
    for sample in torch.utils.data.DataLoader(RawDataset(url, cutting=Cutting(clean=True, iso=(3200, 3200)))):
        sigma = noise_sigma(sample["clean"], sample)
        offset = (sample["noise_black_offset_dn"] / (sample["white_level_dn"] - sample["black_level_dn"])).view(
            1, 4, 1, 1
        )
        residual = (sample["raw"] - sample["clean"] - offset) / sigma
        assert residual.std().item() == pytest.approx(1.0, abs=0.06)
