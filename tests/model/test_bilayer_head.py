import torch

from bcnet_core.model.attention import NonLocalBlock
from bcnet_core.model.bilayer_head import BilayerMaskHead


def test_the_published_size_is_met() -> None:
    assert sum(parameter.numel() for parameter in BilayerMaskHead().parameters()) == 6_296_580


def test_every_map_has_twice_the_side_of_the_features() -> None:
    logits = BilayerMaskHead(8)(torch.randn(3, 8, 14, 14))
    assert [tuple(part.shape) for part in logits] == [(3, 28, 28)] * 4


def test_layer_two_reads_layer_one_but_not_the_other_way_round() -> None:
    torch.manual_seed(0)
    head, features = BilayerMaskHead(8).eval(), torch.randn(2, 8, 14, 14)
    before = head(features)
    with torch.no_grad():
        head.occluder.convs[0].weight.mul_(2)
    after = head(features)
    assert not torch.allclose(before.occludee_mask, after.occludee_mask)
    with torch.no_grad():
        head.occludee.convs[0].weight.mul_(2)
    assert torch.equal(after.occluder_mask, head(features).occluder_mask)


def test_attention_is_the_scaled_softmax_of_the_paper() -> None:
    torch.manual_seed(0)
    block, x = NonLocalBlock(6).eval(), torch.randn(2, 6, 5, 5)
    query, key, value = (part(x).flatten(2) for part in (block.query, block.key, block.value))
    weights = torch.softmax(query.transpose(1, 2) @ key / 6**0.5, dim=-1)  # (N, 25, 25)
    expected = x + block.norm(block.output((value @ weights.transpose(1, 2)).reshape_as(x)))
    torch.testing.assert_close(block(x), expected)


def test_initial_logits_are_near_zero_and_biases_are_zero() -> None:
    torch.manual_seed(0)
    head = BilayerMaskHead(32)
    assert head(torch.randn(2, 32, 14, 14)).occludee_mask.abs().max() < 0.5
    assert all(not p.any() for name, p in head.named_parameters() if name.endswith("bias"))
    fan_out = head.occluder.convs[0].weight
    assert abs(float(fan_out.detach().std()) - (2 / (32 * 9)) ** 0.5) < 0.005
