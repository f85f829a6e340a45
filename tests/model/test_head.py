import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from bcnet_core import BCNetError
from bcnet_core.config.choices import MaskSize
from bcnet_core.config.load import load_recipe
from bcnet_core.model.detectors import build_detector
from bcnet_core.model.head import BilayerMaskHead, Layer, MaskPredictor, NonLocalBlock


def test_the_published_size_is_met() -> None:
    assert sum(parameter.numel() for parameter in BilayerMaskHead().parameters()) == 6_296_580


def test_every_map_has_twice_the_side_of_the_features() -> None:
    logits = BilayerMaskHead(8)(torch.randn(3, 8, 14, 14))
    assert [tuple(part.shape) for part in logits.values()] == [(3, 28, 28)] * 4


def test_layer_two_reads_layer_one_but_not_the_other_way_round() -> None:
    torch.manual_seed(0)
    head, features = BilayerMaskHead(8).eval(), torch.randn(2, 8, 14, 14)
    before = head(features)
    with torch.no_grad():
        head.occluder.convs[0].weight.mul_(2)
    after = head(features)
    assert not torch.allclose(before["occludee_mask"], after["occludee_mask"])
    with torch.no_grad():
        head.occludee.convs[0].weight.mul_(2)
    assert torch.equal(after["occluder_mask"], head(features)["occluder_mask"])


def test_attention_is_the_scaled_softmax_of_the_paper() -> None:
    torch.manual_seed(0)
    block, x = NonLocalBlock(6).eval(), torch.randn(2, 6, 5, 5)
    query, key, value = (part(x).flatten(2) for part in (block.query, block.key, block.value))
    weights = torch.softmax(query.transpose(1, 2) @ key / 6**0.5, dim=-1)  # (N, 25, 25)
    expected = x + block.norm(block.output((value @ weights.transpose(1, 2)).reshape_as(x)))
    torch.testing.assert_close(block(x), expected)


def test_attention_may_start_as_an_identity() -> None:
    torch.manual_seed(0)
    head, features = BilayerMaskHead(8, zero_init_residual=True).eval(), torch.randn(2, 8, 14, 14)
    without = BilayerMaskHead(8, attention=False).eval()
    without.load_state_dict({name: part for name, part in head.state_dict().items() if ".attention." not in name})
    for name, logits in without(features).items():
        torch.testing.assert_close(head(features)[name], logits)
    head.train()(features)["occludee_mask"].square().sum().backward()
    gamma = head.get_parameter("occludee.attention.norm.weight")
    assert gamma.grad is not None and gamma.grad.abs().sum() > 0  # it can leave zero


def test_initial_logits_are_near_zero_and_biases_are_zero() -> None:
    torch.manual_seed(0)
    head = BilayerMaskHead(32)
    assert head(torch.randn(2, 32, 14, 14))["occludee_mask"].abs().max() < 0.5
    assert all(not p.any() for name, p in head.named_parameters() if name.endswith("bias"))
    fan_out = head.occluder.convs[0].weight
    assert abs(float(fan_out.detach().std()) - (2 / (32 * 9)) ** 0.5) < 0.005


def test_the_head_without_its_additions_is_torchvisions_mask_head() -> None:
    head = BilayerMaskHead(layers=1, attention=False, boundary=False).eval()
    assert sum(parameter.numel() for parameter in head.parameters()) == 2_622_977
    plain = nn.Sequential(MaskRCNNHeads(256, (256,) * 4, 1), MaskRCNNPredictor(256, 256, 1)).eval()
    own, theirs = head.state_dict(), plain.state_dict()
    head.load_state_dict(dict(zip(own, theirs.values(), strict=True)))
    features = torch.randn(2, 256, 14, 14)
    with torch.no_grad():
        logits = head(features)
        torch.testing.assert_close(logits["occludee_mask"], plain(features)[:, 0])
    assert logits.keys() == {"occludee_mask"}


@pytest.mark.parametrize("attention", [True, False])
def test_ablations_have_the_parts_that_they_name(attention: bool) -> None:
    head = BilayerMaskHead(32, layers=1, attention=attention)
    assert head.outputs == ("occludee_mask", "occludee_boundary")
    assert any("attention" in name for name, _ in head.named_parameters()) == attention


def test_a_plain_head_can_have_the_depth_and_the_parameters_of_two_layers() -> None:
    plain = {"layers": 1, "attention": False, "boundary": False}
    head = BilayerMaskHead(64, convs=8, width=72, **plain)
    bilayer = sum(parameter.numel() for parameter in BilayerMaskHead(64).parameters())
    assert bilayer == 394_500
    assert sum(parameter.numel() for parameter in head.parameters()) == 389_521
    assert len(head.occludee.convs) == 8
    assert head(torch.randn(2, 64, 14, 14))["occludee_mask"].shape == (2, 28, 28)


@pytest.mark.parametrize("size", [56, 112])
def test_larger_maps_take_little_more_than_the_layers(size: MaskSize) -> None:
    torch.manual_seed(0)
    published, head = BilayerMaskHead(32), BilayerMaskHead(32, mask_size=size)
    assert (published.roi_size, head.roi_size) == (14, 28)
    shared = published.state_dict().keys() & head.state_dict().keys()
    assert {name for name in published.state_dict() if name.startswith(("occluder.", "occludee."))} <= shared
    features = torch.randn(3, 32, 28, 28, requires_grad=True)
    logits = head(features)
    assert [tuple(part.shape) for part in logits.values()] == [(3, size, size)] * 4
    sum((part * torch.randn_like(part)).sum() for part in logits.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())
    flops = [count_flops(published, torch.randn(1, 32, 14, 14)), count_flops(head, features[:1])]
    assert flops[1] < {56: 1.2, 112: 1.5}[size] * flops[0]


def count_flops(head: BilayerMaskHead, features: torch.Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        head(features)
    return counter.get_total_flops()


@pytest.mark.parametrize("layers", [1, 2])
def test_without_whole_masks_a_head_starts_as_before_there_were_any(layers: int) -> None:
    """The same draws for the same parts in the same order: seeds mean what they meant."""
    torch.manual_seed(0)
    head = BilayerMaskHead(8, layers=layers)
    torch.manual_seed(0)
    parts = [*(Layer(8, 8) for _ in range(layers)), *(MaskPredictor(8) for _ in range(2 * layers))]
    convs = [one for part in parts for one in part.modules() if isinstance(one, nn.Conv2d | nn.ConvTranspose2d)]
    for conv in convs:
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
    for part in parts[layers:]:
        nn.init.normal_(part.logits.weight, std=0.001)
    names = ("occluder", "occludee")[-layers:]
    names += ("occludee_mask", "occludee_boundary", "occluder_mask", "occluder_boundary")[: 2 * layers]
    expected = nn.ModuleDict(dict(zip(names, parts, strict=True))).state_dict()
    state = head.state_dict()
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("size", [28, 56])
def test_a_step_with_whole_masks_computes_little_more(size: MaskSize) -> None:
    """Forward and backward of a head as `own_light` has; of a whole detector's step it is a smaller share yet."""
    side, flops = 14 if size == 28 else 28, []
    for amodal in (False, True):
        head = BilayerMaskHead(64, attention=False, amodal=amodal, mask_size=size)
        counter = FlopCounterMode(display=False)
        with counter:
            torch.stack([one.sum() for one in head(torch.randn(2, 64, side, side)).values()]).sum().backward()
        flops.append(counter.get_total_flops())
    assert flops[0] < flops[1] < 1.1 * flops[0]


def test_larger_maps_see_details_that_the_layers_do_not() -> None:
    torch.manual_seed(0)
    head = BilayerMaskHead(8, mask_size=56).eval()
    checkers = (torch.arange(28)[:, None] + torch.arange(28)) % 2 * 2.0 - 1
    features = torch.randn(1, 8, 28, 28)
    seen, averaged = (head(one)["occludee_mask"] for one in (features, features + checkers))
    assert torch.allclose(functional.avg_pool2d(features + checkers, 2), functional.avg_pool2d(features, 2), atol=1e-6)
    assert (seen - averaged).abs().max() > 1e-4


def test_a_single_layer_of_any_width_has_larger_maps() -> None:
    head = BilayerMaskHead(32, layers=1, boundary=False, width=18, mask_size=112)
    assert head(torch.randn(2, 32, 28, 28))["occludee_mask"].shape == (2, 112, 112)


def test_two_layers_have_the_width_of_their_input() -> None:
    with pytest.raises(ValueError, match="64 channels of their input, not 72"):
        BilayerMaskHead(64, width=72)
    assert BilayerMaskHead(8, width=8).occludee.convs[0].out_channels == 8


def test_a_recipe_with_such_a_width_is_an_error() -> None:
    with pytest.raises(BCNetError, match=r"model\.layers=1") as caught:
        load_recipe("shapes", ["model.mask_channels=72"])
    assert caught.value.exit_code == 2
    recipe = load_recipe("shapes", ["model.mask_channels=72", "model.layers=1", "model.mask_convs=8"])
    head = build_detector(recipe, [{"id": 1, "name": "disc"}]).heads.masks.head
    assert [conv.out_channels for conv in head.occludee.convs] == [72] * 8


def test_attention_is_in_full_precision_under_autocast_to_half(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        seen.append((query.dtype, (query @ key.transpose(-1, -2)).dtype))
        return value

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", attention)
    with torch.autocast("cpu", torch.float16):
        NonLocalBlock(8)(torch.randn(2, 8, 4, 4))
    assert seen == [(torch.float32, torch.float32)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_attention_survives_scores_beyond_half_precision(dtype: torch.dtype) -> None:
    """Scores of 80,000, where half precision ends at 65,504."""
    block = NonLocalBlock(64).eval()
    for part in (block.query, block.key, block.value, block.output):
        nn.init.eye_(part.weight[:, :, 0, 0])
    features = torch.full((1, 64, 4, 4), 100.0)
    features[..., 0] = 90.0
    with torch.no_grad():
        expected = block(features)
        got = block.to(dtype)(features.to(dtype)).float()
    torch.testing.assert_close(got, expected, rtol=0.02, atol=0)
