"""The order of the images, and batches on their way from the data loader workers."""

from typing import Any

import numpy as np
import pytest
import torch

from bcnet_core.data.batches import StepSampler, pack, unpack
from bcnet_core.data.dataset import Sample, Targets
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.masks.crops import MaskCrops


def sampler(**options: Any) -> StepSampler:
    return StepSampler(
        **{
            "wide": np.zeros(10, bool),
            "batch_size": 4,
            "first_step": 0,
            "last_step": 9,
            "seed": 1,
            "rank": 0,
            "world_size": 1,
            **options,
        }
    )


def test_every_epoch_sees_every_image_once_in_a_new_order() -> None:
    drawn = [position for step in sampler(last_step=5) for position, _ in step]
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    assert drawn[:10] != drawn[10:]


def test_wide_images_and_others_come_in_steps_of_their_own() -> None:
    wide = np.arange(50) % 3 == 0
    steps = list(sampler(wide=wide, last_step=25))
    kinds = [len({bool(wide[position]) for position, _ in step}) for step in steps]
    assert kinds.count(1) >= 20  # two epochs; what is left of both kinds ends each of them
    drawn = [position for step in steps for position, _ in step]
    assert sorted(drawn[:50]) == sorted(drawn[50:]) == list(range(50)) and drawn[:50] != drawn[50:]
    halves = zip(*(sampler(wide=wide, last_step=25, rank=rank, world_size=2) for rank in (0, 1)), strict=True)
    assert [first + second for first, second in halves] == steps
    assert list(sampler(wide=wide, first_step=9, last_step=25)) == steps[9:]


def test_processes_share_each_step() -> None:
    whole = list(sampler())
    halves = zip(sampler(rank=0, world_size=2), sampler(rank=1, world_size=2), strict=True)
    assert [first + second for first, second in halves] == whole


def test_a_resumed_run_sees_what_it_would_have_seen() -> None:
    assert list(sampler(first_step=4)) == list(sampler())[4:]
    assert len(sampler(first_step=4)) == 5


def test_no_two_samples_share_a_seed() -> None:
    seeds = [seed for step in sampler(last_step=500) for _, seed in step]
    assert len(set(seeds)) > 0.999 * len(seeds)
    assert {seed for step in sampler(seed=2) for _, seed in step}.isdisjoint(seeds)


def sample(instances: int) -> Sample:
    draw = torch.Generator().manual_seed(instances)
    crops = MaskCrops(
        torch.randint(0, 256, (7 * instances,), dtype=torch.uint8, generator=draw),
        torch.randint(0, 99, (instances, 4), generator=draw),
        torch.arange(instances) * 7,
    )
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8, generator=draw)
    targets = Targets(
        torch.rand(instances, 4, generator=draw),
        torch.arange(instances),
        crops,
        crops,
        crops,
        torch.tensor([1.0, 0, 1, 0]),
    )
    return Sample(image, targets, 785, 2**63 - 1)


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [one for part in value for one in tensors(part)] if isinstance(value, tuple) else []


def test_a_packed_batch_is_unpacked() -> None:
    batch = [sample(3), sample(0), sample(1)]
    packed = pack(batch)
    assert packed.dtype == torch.uint8 and packed.dim() == 1
    for old, new in zip(batch, unpack(packed), strict=True):
        assert isinstance(new, Sample) and isinstance(new.targets.occluders, MaskCrops)
        assert (new.image_id, new.seed) == (785, 2**63 - 1)
        torch.testing.assert_close(tensors(new), tensors(old), rtol=0, atol=0)


def test_tensors_of_all_kinds_and_layouts_can_be_packed() -> None:
    values = [torch.tensor(3.5, dtype=torch.float64), torch.tensor([True, False, True]), torch.zeros(0, 4),
              torch.arange(6, dtype=torch.int16).view(2, 3).T, torch.zeros(1, dtype=torch.int64).expand(0)]  # fmt: skip
    torch.testing.assert_close(unpack(pack(values)), values, rtol=0, atol=0)
    assert unpack(pack([])) == []


def test_an_error_keeps_its_hints() -> None:
    _, error = unpack(pack([sample(1), data_error("the image is bad", "replace it")]))
    assert isinstance(error, BCNetError)
    assert (error.message, error.hints, error.exit_code) == ("the image is bad", ("replace it",), 3)
    with pytest.raises(BCNetError, match="the image is bad"):
        raise error
