"""What the pages tell people to copy runs: their commands and their Python, on a dataset on S3."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from storage.datasets.dataset import Dataset, open_dataset
from storage.datasets.history import current_index
from storage.datasets.publishing import publish
from storage.labelling.annotating import annotate, keep_annotations
from storage.reading import RawDataset
from storage.recipe import AnnotationSource
from tests.conftest import REPOSITORY, S3Server
from tests.flows.conftest import Aura, aura, make_dataset, small_recipe, write_photograph

__all__ = ["aura"]  # the fixture

PAGES = REPOSITORY / "docs"
SHOWN_URL = "s3://raw/street"
TORCHVISION = """
import torch

register = torch.library.register_fake
torch.library.register_fake = lambda op, *rest, **more: (
    (lambda function: function) if str(op).startswith("torchvision::") else register(op, *rest, **more)
)
import torchvision  # built apart from this torch, it imports only so; Lightning's torchmetrics wants it

torch.library.register_fake = register
"""


def python_of(page: str, url: str) -> list[str]:
    text = (PAGES / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block.replace(SHOWN_URL, url) for block in blocks]


def commands_of(page: str, url: str) -> list[list[str]]:
    text = (PAGES / page).read_text(encoding="utf-8")
    lines = re.findall(r"^    aura (.*?)(?: +#.*)?$", text, re.MULTILINE)
    return [shlex.split(line.replace(SHOWN_URL, url)) for line in lines]


def run_python(page: str, url: str) -> dict[str, Any]:
    """Run a page's blocks, one after the other, as one program."""
    names: dict[str, Any] = {"__name__": page}
    for block in python_of(page, url):
        exec(compile(block, page, "exec"), names)  # noqa: S102 - our own page
    return names


@pytest.fixture(scope="module")
def street(s3_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Annotated clean RAW of seven photographs, on S3."""
    folder = tmp_path_factory.mktemp("street")
    (folder / "photographs").mkdir()
    images, boxes = [], []
    for number in range(7):
        write_photograph(folder / "photographs" / f"{number}.png", 128, 192, number)
        images.append({"id": number, "file_name": f"{number}.png", "height": 128, "width": 192})
        boxes.append({"id": number, "image_id": number, "category_id": 3, "bbox": [20 + number, 16, 90, 80]})
    document = {"images": images, "annotations": boxes, "categories": [{"id": 3, "name": "car"}]}
    (folder / "instances.json").write_text(json.dumps(document))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment().items():
            patch.setenv(name, value)
        url = f"s3://{s3_server.bucket}/street"
        recipe = small_recipe(
            folder / "photographs", canvas__height=128, canvas__width=128, noise="on_read", lpips_share=0.0
        )
        dataset: Dataset = open_dataset(make_dataset(recipe, url))  # type: ignore[arg-type]
        source = AnnotationSource(source=str(folder / "instances.json"))
        publish(dataset, labels=keep_annotations(dataset, annotate(dataset, current_index(dataset), source).labels))
    return url


def test_plain_pytorch(
    street: str, s3_environment: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert s3_environment.bucket in street
    monkeypatch.chdir(tmp_path)
    names = run_python("training-pytorch.md", street)
    assert names["loss"].isfinite()
    assert names["again"].stream.epoch == names["stream"].epoch == 2
    assert {int(label) for target in names["targets"] for label in target["labels"]} == {3}
    assert names["boxes"].shape[1:] == (4,)
    assert "photographs/" in capsys.readouterr().out


def test_annotations(
    street: str, s3_environment: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert s3_environment.bucket in street
    monkeypatch.chdir(tmp_path)
    Path("photographs").mkdir()
    write_photograph(Path("photographs", "7.png"), 64, 96, 7)
    licence = {"id": 4, "name": "Attribution", "url": "https://creativecommons.org/licenses/by/2.0/"}
    image = {"id": 1, "file_name": "7.png", "license": 4, "height": 64, "width": 96}
    box = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [8, 8, 40, 40]}
    document = {"licenses": [licence], "images": [image], "annotations": [box]}
    Path("photographs", "instances.json").write_text(json.dumps(document | {"categories": [{"id": 3, "name": "car"}]}))
    names = run_python("annotations.md", street)
    assert len(names["targets"]) == len(names["batch"]["annotations"])
    assert capsys.readouterr().out.startswith("car ")
    (*_, command) = commands_of("annotations.md", street)
    column = command[command.index("--licence-column") + 1]
    made = make_dataset(small_recipe(Path(command[1]), licences__column=column), tmp_path / "dataset")
    assert set(RawDataset(str(made)).table["source_licence"].to_pylist()) == {licence["url"]}


CONTINUED = """
class Seen(pl.Callback):
    def __init__(self, stop=None):
        self.samples, self.stop = [], stop

    def on_train_batch_end(self, trainer, module, outputs, batch, number):
        self.samples += [(trainer.current_epoch, *row) for row in zip(batch["sample_id"], batch["crop_top"].tolist())]
        if len(self.samples) == self.stop:
            trainer.save_checkpoint("last.ckpt")
            trainer.should_stop = True
            trainer.limit_val_batches = 0

def run(seen, checkpoint=None):
    torch.manual_seed(0)
    model = Denoiser()
    trainer = pl.Trainer(
        max_epochs=2, use_distributed_sampler=False, accelerator="cpu", logger=False, enable_checkpointing=False,
        callbacks=[seen], enable_progress_bar=False, num_sanity_val_steps=0,
    )
    trainer.fit(model, RawData(URL, batch_size=2), ckpt_path=checkpoint)
    return model

whole, first, then = Seen(), Seen(stop=4), Seen()
straight = run(whole)
run(first)
resumed = run(then, "last.ckpt")
assert len(whole.samples) > 8, whole.samples
assert first.samples + then.samples == whole.samples, (first.samples, then.samples, whole.samples)
assert all(torch.equal(*pair) for pair in zip(straight.parameters(), resumed.parameters()))
print("the same")
"""


def test_lightning_trains_and_goes_on_in_mid_epoch(street: str, s3_environment: S3Server, tmp_path: Path) -> None:
    script = tmp_path / "lightning.py"
    (code,) = python_of("training-lightning.md", street)
    script.write_text("\n".join([TORCHVISION, f"URL = {street!r}", code, CONTINUED]))
    environment = os.environ | s3_environment.environment() | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        timeout=250,
        check=False,
    )
    assert done.stdout.endswith("the same\n"), done.stderr[-3000:]
    assert (tmp_path / "runs" / "denoiser").is_dir()


def test_export(
    street: str, s3_environment: S3Server, aura: Aura, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert s3_environment.bucket in street
    monkeypatch.chdir(tmp_path)
    Path("photographs").mkdir()
    write_photograph(Path("photographs", "one.png"), 64, 96, 1)
    commands = commands_of("export.md", street)
    assert [command[0] for command in commands] == ["export"] * 4 + ["reconstruct"]
    for command in commands:
        assert aura(*command) == 0, command
    capsys.readouterr()
    names = run_python("export.md", street)
    told = capsys.readouterr().out
    assert "00000000.png RGGB 3 [" in told
    assert told.count(".dng (") == 2
    assert names["normalised"].shape[0] == 4
    assert names["boxes"] is not None
    assert np.load("pairs/one.npy").shape == (32, 48, 4)
    pair = Path("street-pairs/00000000.npy")
    with Image.open(pair.with_suffix(".png")) as picture:
        assert (picture.height, picture.width) == tuple(2 * side for side in np.load(pair).shape[:2])
    assert torch.tensor(np.load(pair).astype(np.int32)).max() > 512
