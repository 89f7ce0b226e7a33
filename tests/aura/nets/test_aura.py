"""The network: shapes, its start, what it may know, and its ablations."""

from __future__ import annotations

import pytest
import torch

from aura.color import srgb_to_linear
from aura.errors import InvalidInputError
from aura.nets.aura import Aura, AuraConfig, invert_globally
from aura.nets.context import summarise
from aura.nets.denoise import DenoiseNet
from aura.nets.global_map import apply_global_inverse, map_codes, mean_inverse
from aura.reconstruct import RELEASED_WEIGHTS, load_weights


def image(height: int = 64, width: int = 96, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def shaken(config: AuraConfig | None = None) -> Aura:
    """A network whose zero-initialised layers are no longer zero, so that every branch can be seen."""
    torch.manual_seed(0)
    model = Aura(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def test_it_has_at_most_a_million_parameters() -> None:
    assert sum(parameter.numel() for parameter in Aura().parameters()) <= 1_000_000


def test_it_starts_as_the_inverse_srgb_curve() -> None:
    torch.testing.assert_close(Aura().eval()(image()), srgb_to_linear(image()), atol=1e-5, rtol=0)


def test_the_packed_head_gives_four_planes_at_half_size_in_range() -> None:
    packed = shaken(AuraConfig(head="packed"))(image())
    assert packed.shape == (1, 4, 32, 48)
    packed = packed.detach()
    assert 0.0 <= float(packed.min()) <= float(packed.max()) <= 1.0


def test_the_packed_head_starts_at_the_rggb_sites_of_the_global_map() -> None:
    source = image()
    linear = srgb_to_linear(source)
    packed = Aura(AuraConfig(head="packed")).eval()(source)
    expected = torch.stack(
        [linear[:, 0, 0::2, 0::2], linear[:, 1, 0::2, 1::2], linear[:, 1, 1::2, 0::2], linear[:, 2, 1::2, 1::2]], dim=1
    )
    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("part", ["ycbcr", "denoise", "channel", "spatial", "position", "thumbnail", "local"])
def test_each_part_matters_and_can_be_left_out(part: str) -> None:
    whole = shaken()
    without = Aura(AuraConfig.model_validate({part: False})).eval()
    known = without.state_dict()
    without.load_state_dict({name: value for name, value in whole.state_dict().items() if name in known})
    assert not torch.allclose(whole(image()), without(image()), atol=1e-5)


def test_a_tile_hears_of_the_whole_photograph_only_through_its_context() -> None:
    model = shaken()
    bright, dark = (model.context(summarise(image() * scale)) for scale in (1.0, 0.3))
    tile = image(32, 32, seed=5)
    assert not torch.allclose(model(tile, bright), model(tile, dark), atol=1e-4)


def test_the_residual_is_bounded_by_the_signal() -> None:
    model = shaken()
    with torch.no_grad():
        model.to_planes.weight.mul_(1e4)
    source = image()
    globally = model.global_only(source)
    reach = 0.25 * (globally.abs() + 0.02) + 1e-5
    assert bool(((model(source) - globally).abs() <= reach).all())


@pytest.mark.parametrize("size", [(60, 64), (64, 72)])
def test_sides_that_are_no_multiple_of_16_are_refused_with_their_size(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidInputError, match=rf"{size[0]}, {size[1]}"):
        Aura()(image(*size))


def test_a_summary_needs_an_image_of_some_size() -> None:
    with pytest.raises(InvalidInputError, match="at least 8"):
        summarise(image(4, 64))


def test_a_frozen_backbone_neither_learns_nor_moves_its_statistics() -> None:
    net = DenoiseNet(12)
    net.freeze_backbone()
    net.train()
    before = {name: value.clone() for name, value in net.backbone.state_dict().items()}
    net(torch.rand(2, 12, 16, 16)).mean().backward()
    assert all(parameter.grad is None for parameter in net.backbone.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.backbone.state_dict().items())
    assert any(parameter.grad is not None for parameter in net.branch.parameters())


def test_the_global_map_is_the_committees_mean() -> None:
    model = shaken(AuraConfig(local=False, members=2))
    summary = summarise(image())
    with torch.no_grad():
        inverses = [model.member_inverse(member, summary) for member in range(2)]
        assert not torch.equal(inverses[0].own, inverses[1].own)
        expected = apply_global_inverse(image(), mean_inverse(inverses))
        torch.testing.assert_close(model(image()), expected)
        torch.testing.assert_close(mean_inverse(inverses).matrix, (inverses[0].matrix + inverses[1].matrix) / 2)


def test_tables_do_to_codes_what_the_network_does_to_values() -> None:
    network = load_weights(RELEASED_WEIGHTS).eval()
    codes = torch.randint(0, 256, (2, 3, 48, 80), generator=torch.Generator().manual_seed(5)).to(torch.uint8)
    codes[0, :, :16] = 0
    codes[1, :, :16] = 255
    with torch.inference_mode():
        context = network.context(summarise(codes / 255.0))
        expected = network(codes / 255.0, context)
        found = network.invert_codes(codes, context)
        of_the_map = network.global_only(codes / 255.0, context)
        maps = network.code_maps(context)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    for image, code_map, light in zip(codes, maps, of_the_map, strict=True):
        torch.testing.assert_close(map_codes(image, code_map), light, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(invert_globally(image, code_map), map_codes(image, code_map), rtol=0, atol=1e-6)
