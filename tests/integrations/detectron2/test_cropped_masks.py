"""`CroppedMasks` agree with detectron2's own mask types and with our crops."""

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed")

from detectron2.structures import BitMasks

from bcnet_core import masks
from bcnet_core.integrations.detectron2 import CroppedMasks
from bcnet_core.masks.crops import crop_rles
from bcnet_core.model.losses import crop_to_boxes

HEIGHT, WIDTH = 40, 60
SQUARE = [10.0, 5.0, 30.0, 5.0, 30.0, 25.0, 10.0, 25.0]
TRIANGLE = [40.0, 10.0, 58.0, 35.0, 35.0, 38.0]


@pytest.fixture
def bitmaps() -> np.ndarray:
    drawn = [masks.decode(masks.from_polygons([polygon], HEIGHT, WIDTH)) for polygon in (SQUARE, TRIANGLE)]
    return np.stack([*drawn, np.zeros((HEIGHT, WIDTH), bool)])


@pytest.fixture
def cropped(bitmaps: np.ndarray) -> CroppedMasks:
    return CroppedMasks.from_segmentations(list(bitmaps), HEIGHT, WIDTH)


def test_polygons_and_arrays_are_the_same_masks(cropped: CroppedMasks) -> None:
    other = CroppedMasks.from_segmentations([[np.array(SQUARE)], [np.array(TRIANGLE)], None], HEIGHT, WIDTH)
    assert len(other) == len(cropped) == 3
    for one, two in zip(other.crops, cropped.crops, strict=True):
        assert torch.equal(one, two)


def test_it_has_the_methods_of_detectron2_mask_types(cropped: CroppedMasks, bitmaps: np.ndarray) -> None:
    theirs = BitMasks(torch.from_numpy(bitmaps))
    assert cropped.nonempty().tolist() == theirs.nonempty().tolist() == [True, True, False]
    assert torch.equal(cropped.get_bounding_boxes().tensor[:2], theirs.get_bounding_boxes().tensor[:2])
    assert cropped.device == torch.device("cpu")
    boxes = torch.tensor([[8.0, 3.0, 33.0, 27.0], [30.0, 5.0, 60.0, 40.0], [0.0, 0.0, 20.0, 20.0]])
    ours, expected = cropped.crop_and_resize(boxes, 28), theirs.crop_and_resize(boxes, 28)
    assert ours.shape == expected.shape
    assert (ours ^ expected).float().mean() < 0.02  # detectron2 samples at the cells' centres
    assert not ours[2].any()


def test_crops_equal_those_of_the_torchvision_backend(cropped: CroppedMasks, bitmaps: np.ndarray) -> None:
    boxes = torch.tensor([[8.0, 3.0, 33.0, 27.0], [30.0, 5.0, 60.0, 40.0], [0.0, 0.0, 20.0, 20.0]])
    own = crop_rles([masks.encode(bitmap) for bitmap in bitmaps[:2]] + [None])
    expected = crop_to_boxes(own, torch.arange(3), boxes, size=28)
    assert torch.equal(cropped.crop_and_resize(boxes, 28), expected)


@pytest.mark.parametrize("item", [1, slice(1, 3), torch.tensor([1, 1, 0]), torch.tensor([False, True, True])])
def test_indexing_shares_the_pixels(cropped: CroppedMasks, item: object) -> None:
    chosen = cropped[item]
    expected = cropped.crops.boxes[[item] if isinstance(item, int) else item]
    assert torch.equal(chosen.crops.boxes, expected)
    assert chosen.crops.bits.data_ptr() == cropped.crops.bits.data_ptr()


def test_masks_of_several_images_are_concatenated(cropped: CroppedMasks) -> None:
    joined = CroppedMasks.cat([cropped[:1], cropped[1:]])
    boxes = torch.tensor([[8.0, 3.0, 33.0, 27.0]]).repeat(3, 1)
    assert torch.equal(joined.crop_and_resize(boxes, 28), cropped.crop_and_resize(boxes, 28))
