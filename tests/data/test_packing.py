"""A batch comes out of one tensor as it went in."""

from typing import Any

import pytest
import torch

from bcnet_core.data.dataset import Sample, Targets
from bcnet_core.data.packing import pack, unpack
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.masks.crops import MaskCrops


def sample(instances: int) -> Sample:
    draw = torch.Generator().manual_seed(instances)
    crops = MaskCrops(
        torch.randint(0, 256, (7 * instances,), dtype=torch.uint8, generator=draw),
        torch.randint(0, 99, (instances, 4), generator=draw),
        torch.arange(instances) * 7,
    )
    image = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8, generator=draw)
    targets = Targets(
        torch.rand(instances, 4, generator=draw), torch.arange(instances), crops, crops, torch.tensor([1.0, 0, 1, 0])
    )
    return Sample(image, targets, 785, 2**63 - 1)


def tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [one for part in value for one in tensors(part)] if isinstance(value, tuple) else []


def test_what_is_packed_is_unpacked() -> None:
    batch = [sample(3), sample(0), sample(1)]
    packed = pack(batch)
    assert packed.bytes.dtype == torch.uint8 and packed.bytes.dim() == 1
    for old, new in zip(batch, unpack(packed), strict=True):
        assert isinstance(new, Sample) and isinstance(new.targets.occluders, MaskCrops)
        assert (new.image_id, new.seed) == (785, 2**63 - 1)
        torch.testing.assert_close(tensors(new), tensors(old), rtol=0, atol=0)


def test_all_kinds_and_layouts() -> None:
    values = [torch.tensor(3.5, dtype=torch.float64), torch.tensor([True, False, True]), torch.zeros(0, 4),
              torch.arange(6, dtype=torch.int16).view(2, 3).T, torch.tensor([1.5], dtype=torch.bfloat16)]  # fmt: skip
    torch.testing.assert_close(unpack(pack(values)), values, rtol=0, atol=0)
    assert unpack(pack([])) == []


def test_an_error_travels_with_its_way_out() -> None:
    _, error = unpack(pack([sample(1), data_error("the image is bad", "replace it")]))
    assert isinstance(error, BCNetError)
    assert (error.message, error.hints, error.exit_code) == ("the image is bad", ("replace it",), 3)
    with pytest.raises(BCNetError, match="the image is bad"):
        raise error
