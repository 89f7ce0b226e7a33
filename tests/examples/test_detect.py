"""The detector's example on drawn rectangles: it learns, finds one, scores, and goes on exactly where it stopped."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

from aura.errors import InvalidInputError
from aura.sensor.catalog import load_profile
from examples.detect.__main__ import categories, command
from examples.detect.detector import LEVELS, Detector, visible
from examples.detect.fcos import detections, loss, teach
from examples.detect.scoring import Light, Scores, held_out, score, score_guesses, score_network
from examples.detect.training import Settings, prepare, train
from storage.datasets.creation import create_or_open
from storage.datasets.labels import write_labels
from storage.datasets.publishing import publish
from storage.datasets.shard import ShardData, write_shard
from storage.labelling.annotating import COLUMN, LABELS, annotation_as_row
from storage.labelling.boxes import Annotation
from storage.objects.location import locate
from storage.reading.map_style import RawDataset
from storage.reading.splits import Split
from tests.storage.conftest import CAMERA, sample_row, small_recipe

SIDE, SAMPLES, LABELS_OF = 192, 16, {41: 0}
LIGHT = Light("normal light", (100, 200), (0.0, 0.0))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Clean RAW of sixteen drawn photographs, a bright rectangle in each."""
    folder = tmp_path_factory.mktemp("detect")
    canvas = {"canvas.height": SIDE, "canvas.width": SIDE}
    recipe = small_recipe(folder, shard_size=SAMPLES, noise="none", keep_srgb=False, **canvas)
    made = create_or_open(locate(folder / "dataset"), recipe, "model-1", [load_profile(CAMERA)], SAMPLES)
    levels = {"black_level_dn": [512.0] * 4, "white_level_dn": [15000.0] * 4, "wb_gains": [1.0] * 3}
    drawn, labels, rows = np.random.default_rng(0), [], []
    raw = np.full((SAMPLES, 4, SIDE // 2, SIDE // 2), 1500, np.uint16)
    for index in range(SAMPLES):
        left, top = (2 * drawn.integers(4, 36, 2)).tolist()
        width, height = (2 * drawn.integers(28, 44, 2)).tolist()
        raw[index, :, top // 2 : (top + height) // 2, left // 2 : (left + width) // 2] = 9000
        box = annotation_as_row(Annotation("cup", 41, (left, top, left + width, top + height)))
        labels.append({"sample_id": f"sample-{index}", COLUMN: [box]})
        valid = {"valid_height_px": SIDE, "valid_width_px": SIDE, "camera_to_srgb": np.eye(3).ravel().tolist()}
        rows.append(sample_row(index, source_sha256=f"{index:x}" * 64, **valid, **levels))
    write_shard(made, 0, ShardData(raw, None, rows))
    publish(made, labels=write_labels(made, pa.Table.from_pylist(labels, schema=LABELS)))
    return Settings(
        made.location.url,
        steps=60,
        batch_size=4,
        crop=96,
        scales=(1.0, 1.0),
        iso=(100, 200),
        exposure_ev=(-1.0, 0.0),
        held_out=0.3,
    )


@pytest.fixture(scope="module")
def trained(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Detector, list[float]]:
    losses: list[float] = []
    place = tmp_path_factory.mktemp("run") / "detector.safetensors"
    return train(settings, LABELS_OF, place, lambda _, value: losses.append(value)), losses


def test_it_learns_and_finds_what_was_held_out(settings: Settings, trained: tuple[Detector, list[float]]) -> None:
    model, losses = trained
    assert len(losses) == settings.steps
    assert losses[-1] < 0.6 * losses[0]
    photographs = held_out(settings, LIGHT)
    assert 0 < len(photographs) < SAMPLES
    learned = score_network(model, photographs, LABELS_OF)
    fresh = score_network(Detector(1).eval(), photographs, LABELS_OF)
    assert learned.ap50 == learned.ap50_by_category[41] > 0.5
    assert fresh.ap50 < 0.1
    assert learned.loss is not None
    assert fresh.loss is not None
    assert learned.loss < fresh.loss
    seen = RawDataset(settings.dataset, split=Split("train", settings.held_out, settings.seed))
    assert score_guesses(photographs, seen, LABELS_OF).ap50 < learned.ap50


def test_a_run_that_was_stopped_becomes_the_same_network(settings: Settings, tmp_path: Path) -> None:
    short = replace(settings, steps=6)
    whole = train(short, LABELS_OF, tmp_path / "whole.safetensors", lambda *_: None)

    class StoppedError(Exception):
        pass

    def stop(done: int, _: float) -> None:
        if done == 5:
            raise StoppedError

    place = tmp_path / "stopped.safetensors"
    with pytest.raises(StoppedError):
        train(short, LABELS_OF, place, stop, save_every=4)
    steps: list[int] = []
    resumed = train(short, LABELS_OF, place, lambda done, _: steps.append(done))
    assert steps == [5, 6]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    with pytest.raises(SystemExit, match="other settings"):
        train(replace(short, seed=1), LABELS_OF, place, lambda *_: None)


def test_too_few_photographs_are_told(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="no full batch of 4096"):
        train(replace(settings, batch_size=4096), LABELS_OF, tmp_path / "none.safetensors", lambda *_: None)
    with pytest.raises(InvalidInputError, match="hold out more"):
        held_out(replace(settings, held_out=1e-9), LIGHT)


def test_the_network_and_what_it_is_taught_stay_on_the_device_of_the_images() -> None:
    raw, gains, matrix = (torch.empty(2, *shape, device="meta") for shape in ((4, 96, 128), (3,), (3, 3)))
    found = Detector(2).to("meta")(visible(raw, gains, matrix))
    _, sides = teach(found.cells, torch.empty(3, 4, device="meta"), torch.empty(3, dtype=torch.long, device="meta"))
    assert {each.device.type for each in (*found, sides)} == {"meta"}


def test_what_is_taught_is_what_is_read_back() -> None:
    """A network that answered exactly what it is taught would find exactly the boxes."""
    model = Detector(2).eval()
    with torch.inference_mode():
        found = model(torch.zeros(1, 3, 256, 256))
    boxes = torch.tensor([[20.0, 30.0, 60.0, 90.0], [100.0, 40.0, 230.0, 200.0]])
    labels, sides = teach(found.cells, boxes, torch.tensor([1, 0]))
    assert {number for number in labels.tolist() if number >= 0} == {0, 1}
    classes = torch.full_like(found.classes, -20.0)
    classes[0, labels >= 0, labels[labels >= 0]] = 20.0
    perfect = found._replace(classes=classes, sides=sides[None], centreness=torch.full_like(found.centreness, 20.0))
    ((read, names, scores),) = detections(perfect, 256, 256)
    assert {(int(name), *box.tolist()) for name, box in zip(names, read, strict=True)} == {
        (1, 20.0, 30.0, 60.0, 90.0),
        (0, 100.0, 40.0, 230.0, 200.0),
    }
    assert scores.min() > 0.99
    target = {"boxes": boxes, "labels": torch.tensor([1, 0]), "is_crowd": torch.tensor([False, False])}
    unsure = perfect._replace(centreness=found.centreness)  # which is taught by degrees
    assert loss(unsure, [target]) < 0.8 < loss(found, [target])
    nothing = {name: value[:0] for name, value in target.items()}
    assert torch.isfinite(loss(found, [nothing]))


def test_a_crowd_is_no_object_and_no_background() -> None:
    model = Detector(2).eval()
    with torch.inference_mode():
        found = model(torch.zeros(1, 3, 256, 256))
    crowd = {"boxes": torch.tensor([[100.0, 40.0, 230.0, 200.0]]), "labels": torch.tensor([0])}
    crowd["is_crowd"] = torch.tensor([True])
    middle = found.cells[:, :2]
    inside = ((middle > torch.tensor([100.0, 40.0])) & (middle < torch.tensor([230.0, 200.0]))).all(-1)
    assert inside.any()

    def loss_of(category: int, where: torch.Tensor) -> float:
        classes = torch.full_like(found.classes, -20.0)
        classes[0, where, category] = 5.0
        return float(loss(found._replace(classes=classes), [crowd]))

    assert loss_of(0, inside) == pytest.approx(0.0, abs=1e-6)  # whatever is said there of the crowd's category
    assert loss_of(1, inside) > 1.0
    assert loss_of(0, ~inside) > 1.0


def test_cells_stand_in_the_middle_of_what_they_see() -> None:
    model, side = Detector(1).eval(), 448
    levels = [model.early, lambda image: model.late(model.early(image))]
    for (stride, first, _, _), look in zip(LEVELS, levels, strict=False):
        place = round((side / 2 - first) / stride)
        touched = torch.zeros(side, side)
        for seed in range(3):  # poolings pass on what is largest only
            image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(seed)).requires_grad_()
            look(image)[0, :, place, place].sum().backward()
            assert image.grad is not None
            touched += image.grad.abs().sum((0, 1))
        for axis in (0, 1):
            seen = touched.sum(axis).nonzero()[:, 0]
            middle = (int(seen.min()) + int(seen.max()) + 1) / 2
            assert middle == pytest.approx(first + stride * place, abs=1.5)


def test_boxes_are_enlarged_with_the_picture_that_they_are_in() -> None:
    raw = torch.full((1, 4, 64, 100), 0.2)
    raw[:, :, 16:48, 50:75] = 0.8
    # in pixels of the mosaic
    box = {"left_px": 100.0, "top_px": 32.0, "width_px": 50.0, "height_px": 64.0, "category_id": 41, "is_crowd": False}
    batch = {"raw": raw, "wb_gains": torch.ones(1, 3), "camera_to_srgb": torch.eye(3)[None], "annotations": [[box]]}
    image, (target,) = prepare(batch, LABELS_OF, 1.1, torch.device("cpu"))
    assert image.shape == (1, 3, 64, 112)  # sides are multiples of 16, so the two factors differ
    assert target["boxes"][0].tolist() == pytest.approx([50 * 1.12, 16, 75 * 1.12, 48])
    bright = image[0, 1] > image[0, 1].mean()
    rows, columns = bright.any(1).nonzero()[:, 0], bright.any(0).nonzero()[:, 0]
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert [int(each) for each in seen] == pytest.approx(target["boxes"][0].tolist(), abs=1)


def test_the_answer_in_the_file_scores_full_marks(settings: Settings) -> None:
    photographs = held_out(settings, LIGHT)

    def known(item: dict[str, object]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        (each,) = item["annotations"]  # type: ignore[misc]
        left, top = each["left_px"] / 2, each["top_px"] / 2
        box = [[left, top, left + each["width_px"] / 2, top + each["height_px"] / 2]]
        return torch.tensor(box), torch.tensor([0]), torch.tensor([0.9])

    assert score(known, photographs, LABELS_OF) == Scores(pytest.approx(1), pytest.approx(1), {41: pytest.approx(1)})
    none = torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0)
    assert score(lambda _: none, photographs, LABELS_OF).ap == 0.0
    assert categories(settings.dataset) == {41: "cup"}


def test_dark_and_bright_raw_look_alike() -> None:
    raw = torch.rand(1, 4, 16, 16) * 0.5 + 0.1
    gains, matrix = torch.tensor([[2.0, 1.0, 1.5]]), torch.eye(3)[None]
    bright, dark = (visible(raw * factor, gains, matrix) for factor in (1.0, 2.0**-5))
    assert torch.allclose(bright, dark, atol=1e-4)
    padded = torch.cat([raw, torch.zeros_like(raw)], dim=-1)
    assert torch.allclose(visible(padded, gains, matrix)[..., :16], bright, atol=1e-4)


def test_help_says_what_is_taken_if_nothing_is_given() -> None:
    said = " ".join(CliRunner().invoke(command, ["--help"]).stdout.split())
    for default in ("runs/detect", Settings("").steps, Settings("").held_out, Settings("").seed):
        assert f"default: {default}" in said
