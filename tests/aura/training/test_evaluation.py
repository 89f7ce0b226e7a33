import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from aura.dng import write_dng
from aura.errors import InvalidInputError, MissingFileError
from aura.metrics import psnr
from aura.perceptual import Lpips
from aura.training.evaluation import (
    CEILING,
    Evaluation,
    EvaluationRow,
    Score,
    canonical_by,
    evaluate,
    figures,
    fit_ceiling,
    predicted_raw,
    score,
)
from aura.training.fidelity_table import as_json, as_markdown, as_table
from aura.training.raw_files import RawFile, RawFrame, list_raw_files, read_raw
from aura.unprocess import linearise, upi

MATRIX = np.array([[0.9, -0.3, -0.1], [-0.4, 1.2, 0.2], [-0.1, 0.2, 0.6]])


@pytest.fixture(scope="module")
def raw_file(tmp_path_factory: pytest.TempPathFactory) -> RawFile:
    """A DNG of coloured blobs, a few of them over-exposed."""
    generator = torch.Generator().manual_seed(3)
    planes = torch.zeros(1, 4, 80, 96)
    for cells in (4, 10, 30):
        grey = torch.rand(1, 1, cells, cells, generator=generator)
        coarse = grey + 0.2 * torch.rand(1, 4, cells, cells, generator=generator)
        planes += torch.nn.functional.interpolate(coarse, (80, 96), mode="bicubic") / 3.6
    gains = torch.tensor([0.5, 1.0, 1.0, 0.6]).view(4, 1, 1)
    light = (1.6 * planes[0].clamp(0) ** 2 * gains).clamp(0, 1)
    path = tmp_path_factory.mktemp("raw") / "blobs.dng"
    write_dng(
        path,
        (light * 4000 + 64).round().numpy().astype(np.uint16),
        cfa_pattern="RGGB",
        black_level=64,
        white_level=4064,
        color_matrix=MATRIX,
        as_shot_neutral=(0.5, 1.0, 0.6),
        camera_model="test",
    )
    return RawFile(path, None)


def half_exposed(image: np.ndarray) -> Tensor:
    """The linear inverse with half of the light: right but for exposure."""
    return canonical_by(linearise)(image) * 0.5


@pytest.fixture(scope="module")
def evaluation(raw_file: RawFile) -> Evaluation:
    methods = {"linearise": canonical_by(linearise), "upi": canonical_by(upi), "half": half_exposed}
    return evaluate(methods, [raw_file], ["libraw_fixed", "in_camera"], perceptual_crop=128)


def score_of(evaluation: Evaluation, method: str) -> Score:
    (found,) = [row.score for row in evaluation.rows if row.method == method]
    return found


def test_rows_come_by_method_and_missing_photographs_are_named(evaluation: Evaluation) -> None:
    assert [row.method for row in evaluation.rows] == ["linearise", "upi", "half", CEILING]
    assert {row.developer for row in evaluation.rows} == {"libraw_fixed"}
    ((name, developer),) = [(pair.name, pair.developer) for pair in evaluation.left_out]
    assert (name, developer) == ("blobs.dng", "in_camera")


def test_nothing_passes_the_ceiling_by_far_and_classical_inverses_stay_under_it(evaluation: Evaluation) -> None:
    ceiling = score_of(evaluation, CEILING)
    for method in ("linearise", "upi", "half"):
        assert score_of(evaluation, method).psnr_aligned < ceiling.psnr_aligned
        assert score_of(evaluation, method).ssim_aligned < 1
    assert ceiling.psnr_aligned > 25


def test_alignment_forgives_exposure_and_nothing_else_does(evaluation: Evaluation) -> None:
    plain, half = score_of(evaluation, "linearise"), score_of(evaluation, "half")
    assert half.psnr < plain.psnr - 3
    assert half.ciede2000 > plain.ciede2000 + 3
    assert half.psnr_aligned > half.psnr + 3
    assert half.ciede2000_aligned < half.ciede2000


def test_binning_takes_the_grain_of_the_truth_off_and_nothing_else(raw_file: RawFile) -> None:
    frame = read_raw(raw_file.path)
    light = frame.packed().clamp(0.05, 0.9)
    grain = 0.02 * torch.randn(light.shape, generator=torch.Generator().manual_seed(5))
    lpips = Lpips()
    grainy = score(light, (light + grain).clamp(0, 1), frame, 128, lpips)
    assert grainy.lpips_aligned_binned < 0.5 * grainy.lpips_aligned
    bent = score(light**1.5, light, frame, 128, lpips)
    assert bent.lpips_aligned_binned > 0.5 * bent.lpips_aligned


def test_overexposed_sites_are_counted_apart(evaluation: Evaluation) -> None:
    row = evaluation.rows[0]
    score = row.score
    assert 0 < row.overexposed_share < 0.5
    assert score.psnr_aligned_overexposed is not None
    assert score.psnr_aligned_exposed is not None
    mixed = (1 - row.overexposed_share) * 10 ** (-score.psnr_aligned_exposed / 10) + row.overexposed_share * 10 ** (
        -score.psnr_aligned_overexposed / 10
    )
    assert -10 * np.log10(mixed) == pytest.approx(score.psnr_aligned, abs=0.01)


def test_the_ceiling_recovers_any_polynomial_of_degree_five(raw_file: RawFile) -> None:
    frame = read_raw(raw_file.path)
    image = np.random.default_rng(0).integers(0, 256, (*frame.mosaic.shape, 3), dtype=np.uint8)
    red, green, blue = (image / 255.0).transpose(2, 0, 1)
    signal = 0.3 * red**5 + 0.2 * green**2 * blue**3 + 0.1 * red * green * blue + 0.2 * blue
    polynomial = replace(
        frame, mosaic=(signal * 60000).round().astype(np.uint16), black_level=(0.0,) * 4, white_level=(60000.0,) * 4
    )
    fitted = fit_ceiling(image, polynomial)
    assert float(psnr(fitted[None], polynomial.packed()[None])) > 90
    gone = replace(polynomial, mosaic=(np.sqrt(red) * 60000).round().astype(np.uint16))
    assert float(psnr(fit_ceiling(image, gone)[None], gone.packed()[None])) < 60


def test_a_crop_is_all_that_the_method_sees(raw_file: RawFile) -> None:
    seen: list[tuple[int, ...]] = []

    def watch(image: np.ndarray) -> Tensor:
        seen.append(image.shape)
        return canonical_by(linearise)(image)

    evaluate({"watch": watch}, [raw_file], ["libraw_fixed"], crop=128, perceptual_crop=128)
    assert seen == [(128, 128, 3)]


@pytest.mark.parametrize("crop", [124, 126])
def test_a_crop_of_any_even_side_keeps_photograph_and_pattern_on_site(
    raw_file: RawFile, evaluation: Evaluation, crop: int
) -> None:
    """The mosaic has 160x192 pixels: the middle of 126 begins at an odd one."""
    methods = {"linearise": canonical_by(linearise)}
    cropped = evaluate(methods, [raw_file], ["libraw_fixed"], crop=crop, perceptual_crop=crop)
    for method in ("linearise", CEILING):
        whole, part = score_of(evaluation, method), score_of(cropped, method)
        assert part.psnr_aligned == pytest.approx(whole.psnr_aligned, abs=3)


def test_predicted_raw_inverts_development_by_the_camera_matrix(raw_file: RawFile) -> None:
    frame: RawFrame = read_raw(raw_file.path)
    grey = torch.full((3, 4, 4), 0.4)
    predicted = predicted_raw(grey, frame)
    expected = 0.4 / torch.tensor([2.0, 1.0, 1.0, 1 / 0.6]).view(4, 1, 1)
    torch.testing.assert_close(predicted, expected.expand(4, 2, 2), atol=1e-3, rtol=0)


def test_wrong_options_are_refused(raw_file: RawFile) -> None:
    with pytest.raises(InvalidInputError, match="ceiling"):
        evaluate({CEILING: half_exposed}, [raw_file], ["libraw_fixed"])
    for crop in (61, 122):
        with pytest.raises(InvalidInputError, match=f"{crop} pixels; expected an even number of at least 124"):
            evaluate({}, [raw_file], ["libraw_fixed"], crop=crop)


def row(developer: str, method: str, aligned: float, *, hard: bool, file: str = "a") -> EvaluationRow:
    measured = Score(aligned - 5, aligned, aligned, None, 0.5, 0.6, 0.3, 0.2, 0.1, 9.0, 8.0)
    return EvaluationRow(file, developer, method, hard, 0.0, 0.95, measured)  # type: ignore[arg-type]  # a developer


def test_figures_average_by_developer_hard_and_all_with_the_way_to_the_ceiling() -> None:
    values = {
        ("libraw_fixed", False): {"linearise": 34.0, "upi": 30.0, "aura": 38.0, CEILING: 42.0},
        ("darktable", True): {"linearise": 24.0, "upi": 26.0, "aura": 30.0, CEILING: 40.0},
    }
    rows = tuple(
        row(developer, method, value, hard=hard)
        for (developer, hard), methods in values.items()
        for method, value in methods.items()
    )
    means = figures(Evaluation(rows, (), "words"))
    assert means["all/aura/psnr_aligned"] == (34.0, "dB", 4.0)
    assert means["hard/aura/psnr_aligned"].value == 30.0
    assert means["darktable/upi/psnr"].value == 21.0
    assert means["libraw_fixed/aura/way_to_ceiling"].value == pytest.approx(0.5)
    assert means["hard/aura/way_to_ceiling"].value == pytest.approx(4 / 14)
    assert means["all/ceiling/way_to_ceiling"].value == pytest.approx(1.0)
    assert "all/aura/psnr_aligned_overexposed" not in means


def test_tables_show_every_method_and_what_was_left_out(evaluation: Evaluation) -> None:
    console = Console(width=200, record=True, file=None, quiet=True)
    console.print(as_table(evaluation))
    markdown = as_markdown(evaluation)
    shown = f"{score_of(evaluation, 'upi').psnr_aligned:.1f}"
    for method in ("linearise", "upi", "half", CEILING):
        assert f"| {method} |" in markdown
    assert shown in markdown
    assert "in_camera of blobs.dng (" in markdown
    content = json.loads(json.dumps(as_json(evaluation)))
    assert content["figures"]["libraw_fixed/upi/psnr_aligned"]["unit"] == "dB"
    assert content["rows"][0]["score"]["psnr"] == evaluation.rows[0].score.psnr


def test_files_are_listed_from_a_manifest_or_by_suffix(tmp_path: Path, raw_file: RawFile) -> None:
    (plain,) = list_raw_files(raw_file.path.parent)
    assert plain == RawFile(raw_file.path.resolve(), None)
    with pytest.raises(MissingFileError, match="No RAW file"):
        list_raw_files(tmp_path)
    with pytest.raises(MissingFileError, match="nowhere"):
        list_raw_files(tmp_path / "nowhere")


def test_the_validation_files_are_listed_by_their_manifest(data_dir: Path) -> None:
    files = list_raw_files(data_dir / "raw" / "validation")
    assert len(files) == 7
    assert all(file.description is not None and file.path.is_file() for file in files)


def test_one_real_file_scores_as_measured_before(data_dir: Path) -> None:
    (chart,) = [file for file in list_raw_files(data_dir / "raw" / "validation") if "colorchart" in file.path.name]
    judged = evaluate({"linearise": canonical_by(linearise)}, [chart], ["libraw_fixed"], crop=512, perceptual_crop=128)
    linear, ceiling = (score_of(judged, method) for method in ("linearise", CEILING))
    assert 35 < linear.psnr_aligned < ceiling.psnr_aligned < 60
    assert not judged.rows[0].hard
