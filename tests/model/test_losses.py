import pytest
import torch
from torch.nn import functional

from bcnet_core.config.choices import OccluderSampling
from bcnet_core.maps import MAPS
from bcnet_core.model.losses import bilayer_losses, occluder_rois, target_maps


def occluders(*nonempty: bool) -> torch.Tensor:
    masks = torch.zeros(len(nonempty), 28, 28, dtype=torch.bool)
    for index, value in enumerate(nonempty):
        masks[index, 3:9, 4:12] = value
    return masks


def case(*nonempty: bool) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    count = len(nonempty)
    logits = {spec.name: torch.randn(count, 28, 28, generator=generator, requires_grad=True) for spec in MAPS}
    occludee = torch.rand(count, 28, 28, generator=generator) > 0.5
    occluder = occluders(*nonempty)
    targets = target_maps({"occludee": occludee, "occluder": occluder, "amodal": occludee})
    return logits, targets, torch.linspace(0.9, 0.1, count)


def test_balanced_draws_as_many_empty_as_occluded() -> None:
    masks = occluders(False, True, False, False)
    chosen = occluder_rois(masks, torch.tensor([0.5, 0.9, 0.1, 0.7]), sampling="balanced")
    assert chosen.tolist() == [1, 2]
    assert occluder_rois(occluders(True, True, False), torch.rand(3), sampling="balanced").tolist() == [0, 1, 2]


def test_nonempty_takes_only_the_occluded() -> None:
    assert occluder_rois(occluders(False, True, True), torch.rand(3), sampling="nonempty").tolist() == [1, 2]


def test_official_adds_the_first_rois_of_the_batch_even_twice() -> None:
    assert occluder_rois(occluders(True, False, True), torch.rand(3), sampling="official").tolist() == [0, 2, 0, 1]


def test_losses_are_mean_cross_entropies() -> None:
    logits, targets, keys = case(True, False, False)
    losses = bilayer_losses(logits, targets, keys)
    expected = functional.binary_cross_entropy_with_logits(logits["occludee_mask"], targets["occludee_mask"].float())
    torch.testing.assert_close(losses["occludee_mask"], expected)
    chosen = [0, 2]  # the occluded one, and the empty one with the smallest key
    expected = functional.binary_cross_entropy_with_logits(
        logits["occluder_boundary"][chosen], targets["occluder_boundary"][chosen].float()
    )
    torch.testing.assert_close(losses["occluder_boundary"], expected)


def test_dice_adds_an_overlap_to_the_masks_that_are_not_empty() -> None:
    logits, targets, keys = case(True, False, False)
    plain, half = bilayer_losses(logits, targets, keys), bilayer_losses(logits, targets, keys, dice=0.5)
    added = {name: loss - plain[name] for name, loss in half.items()}
    assert {name for name, more in added.items() if more != 0} == {"occludee_mask", "occluder_mask", "amodal_mask"}
    shares, truth = logits["occludee_mask"].sigmoid(), targets["occludee_mask"]
    each = [
        1 - 2 * one[true].sum() / (one.square().sum() + true.sum()) for one, true in zip(shares, truth, strict=True)
    ]
    torch.testing.assert_close(added["occludee_mask"], 0.5 * torch.stack(each).mean())
    one, true = logits["occluder_mask"][0].sigmoid(), targets["occluder_mask"][0]  # layer 1's other RoI is empty
    expected = 0.5 * (1 - 2 * one[true].sum() / (one.square().sum() + true.sum()))
    torch.testing.assert_close(added["occluder_mask"], expected)


def test_dice_is_0_for_the_true_mask_and_1_for_its_opposite() -> None:
    _, targets, keys = case(True, True)
    for sign, overlap in ((100, 0), (-100, 1)):
        logits = {name: torch.where(true, sign, -sign).float() for name, true in targets.items()}
        plain, more = (bilayer_losses(logits, targets, keys, dice=dice)["occluder_mask"] for dice in (0, 1))
        assert more - plain == pytest.approx(overlap, abs=1e-4)


def test_without_an_occluder_the_terms_are_zero_with_a_graph() -> None:
    losses = bilayer_losses(*case(False, False), dice=1)
    assert losses["occluder_mask"].item() == losses["occluder_boundary"].item() == 0
    assert losses["occluder_mask"].requires_grad and losses["occludee_mask"] > 0.1


def test_without_a_roi_all_terms_are_zero_with_a_graph() -> None:
    losses = bilayer_losses(*case(), dice=1)
    assert all(loss.item() == 0 for loss in losses.values()) and len(losses) == len(MAPS)
    assert all(loss.requires_grad for loss in losses.values())


def test_the_sampling_decides_which_rois_train_layer_one() -> None:
    logits, targets, keys = case(False, True, False)
    for sampling, chosen in (("nonempty", [1]), ("balanced", [1, 2]), ("official", [1, 0])):
        losses = bilayer_losses(logits, targets, keys, sampling=sampling)  # type: ignore[arg-type]
        expected = functional.binary_cross_entropy_with_logits(
            logits["occluder_mask"][chosen], targets["occluder_mask"][chosen].float()
        )
        torch.testing.assert_close(losses["occluder_mask"], expected)


def test_a_head_of_fewer_maps_has_fewer_losses() -> None:
    logits, targets, keys = case(True, False)
    del logits["occluder_boundary"], logits["amodal_mask"]
    losses = bilayer_losses(logits, targets, keys)
    assert set(losses) == {"occludee_mask", "occludee_boundary", "occluder_mask"}


def test_maps_need_not_be_square() -> None:
    logits, targets, keys = case(True, True)
    logits, targets = ({name: m[:, :14] for name, m in maps.items()} for maps in (logits, targets))
    expected = functional.binary_cross_entropy_with_logits(logits["occludee_mask"], targets["occludee_mask"].float())
    torch.testing.assert_close(bilayer_losses(logits, targets, keys)["occludee_mask"], expected)


@pytest.mark.parametrize("sampling", ["balanced", "nonempty", "official"])
def test_losses_are_computed_on_the_device_of_the_rois(sampling: OccluderSampling) -> None:
    """What is made anew without a word of its device would land on the default one, here one that holds no values."""
    arguments = case(True, False, False)
    here = bilayer_losses(*arguments, sampling=sampling, dice=1)
    with torch.device("meta"):
        there = bilayer_losses(*arguments, sampling=sampling, dice=1)
    assert all(torch.equal(loss, there[name]) for name, loss in here.items())
