import numpy as np
import pytest
import torch

from bcnet_core import masks
from bcnet_core.masks.paste import paste_masks, paste_rles


def test_a_full_map_fills_its_box_and_nothing_else() -> None:
    masks = paste_masks(torch.ones(2, 28, 28), torch.tensor([[10.0, 4, 20, 24], [0, 0, 30, 26]]), 26, 30)
    assert masks.shape == (2, 26, 30) and masks.dtype == torch.bool
    rows, columns = masks[0].nonzero(as_tuple=True)
    assert [columns.min(), rows.min(), columns.max(), rows.max()] == [10, 4, 19, 23]
    assert masks[0].sum() == 200 and masks[1].all()


def test_a_map_at_its_own_scale_comes_back() -> None:
    disc = torch.from_numpy(np.hypot(*(np.mgrid[:28, :28] - 13.5)) < 10)
    (mask,) = paste_masks(disc.float()[None], torch.tensor([[3.0, 5, 31, 33]]), 40, 50)
    assert torch.equal(mask[5:33, 3:31], disc) and mask.sum() == disc.sum()


@pytest.mark.parametrize("box", [[5.0, 5, 5, 9], [7.2, 7.2, 7.3, 7.3], [0, 0, 0, 0]])
def test_boxes_without_an_extent_are_at_most_a_pixel(box: list[float]) -> None:
    assert paste_masks(torch.ones(1, 28, 28), torch.tensor([box]), 10, 10).sum() <= 1


def test_small_masks_keep_their_area() -> None:
    """A disc of 9 pixels across, cropped by hand to its box and pasted back, at 50 places."""
    generator = np.random.default_rng(0)
    share = []
    for _ in range(50):
        x, y = generator.uniform(5, 20, 2)
        box = torch.tensor([[x, y, x + 9, y + 9]], dtype=torch.float32)
        disc = torch.from_numpy(np.hypot(*(np.mgrid[:28, :28] - 13.5)) < 14).float()
        share.append(float(paste_masks(disc[None], box, 40, 40).sum()) / (np.pi * 4.5**2))
    assert np.mean(share) == pytest.approx(1, abs=0.06)


def test_no_detection_is_no_mask() -> None:
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), 5, 6).shape == (0, 5, 6)
    assert paste_rles(torch.zeros(0, 28, 28), torch.zeros(0, 4), 5, 6) == []


def test_run_lengths_are_the_same_masks() -> None:
    """Boxes of all sizes, in, across and outside of the image, as high as the image too, with maps of every kind."""
    generator = torch.Generator().manual_seed(0)
    height, width, count = 47, 61, 300
    centres = torch.rand(count, 2, generator=generator) * torch.tensor([width, height])
    sizes = torch.exp(torch.rand(count, 2, generator=generator) * 6 - 1)
    boxes = torch.cat([centres - sizes / 2, centres + sizes / 2], dim=1)
    boxes[::3, 1], boxes[::3, 3] = 0, height
    boxes[::7, 0], boxes[::7, 2] = 0, width
    maps = torch.rand(count, 28, 28, generator=generator)
    maps[::2] = torch.nn.functional.avg_pool2d(maps[::2], 9, 1, 4)
    maps[::5] += 0.4
    maps[1] = 0
    dense = paste_masks(maps, boxes, height, width)
    rles = paste_rles(maps, boxes, height, width)
    assert [rle["size"] for rle in rles] == [[height, width]] * count
    back = np.stack([masks.decode(rle) for rle in rles])
    assert (back != dense.numpy()).sum() <= 1e-6 * back.size and back.any() and not back.all()
    assert all(rle == masks.encode(masks.decode(rle)) for rle in rles), "not in the canonical form"
