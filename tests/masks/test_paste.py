import numpy as np
import pytest
import torch

from bcnet_core import masks
from bcnet_core.masks.crops import paste_rles


def sampled(maps: torch.Tensor, boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The reference: every map sampled by torch at the pixel centers of its box."""
    dense = torch.zeros((len(maps), height, width), dtype=torch.bool, device=maps.device)
    limit = boxes.new_tensor([width, height])
    first = boxes[:, :2].floor().clamp(min=0).long().tolist()
    last = boxes[:, 2:].ceil().minimum(limit).long().tolist()
    for index, ((x0, y0), (x1, y1)) in enumerate(zip(first, last, strict=True)):
        if x1 <= x0 or y1 <= y0:
            continue
        corner, size = boxes[index, :2], (boxes[index, 2:] - boxes[index, :2]).clamp(min=1e-6)
        x = (torch.arange(x0, x1, device=maps.device) + 0.5 - corner[0]) / size[0] * 2 - 1
        y = (torch.arange(y0, y1, device=maps.device) + 0.5 - corner[1]) / size[1] * 2 - 1
        grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=2)  # (h, w, 2)
        values = torch.nn.functional.grid_sample(maps[index][None, None], grid[None], align_corners=False)
        dense[index, y0:y1, x0:x1] = values[0, 0] >= 0.5
    return dense


def pasted(maps: torch.Tensor, boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    dense = [masks.decode(rle) for rle in paste_rles(maps, boxes, height, width)]
    return torch.from_numpy(np.stack(dense))


def test_a_full_map_fills_its_box_and_nothing_else() -> None:
    full = pasted(torch.ones(2, 28, 28), torch.tensor([[10.0, 4, 20, 24], [0, 0, 30, 26]]), 26, 30)
    assert full.shape == (2, 26, 30) and full.dtype == torch.bool
    rows, columns = full[0].nonzero(as_tuple=True)
    assert [columns.min(), rows.min(), columns.max(), rows.max()] == [10, 4, 19, 23]
    assert full[0].sum() == 200 and full[1].all()


def test_a_map_at_its_own_scale_is_unchanged() -> None:
    disc = torch.from_numpy(np.hypot(*(np.mgrid[:28, :28] - 13.5)) < 10)
    (mask,) = pasted(disc.float()[None], torch.tensor([[3.0, 5, 31, 33]]), 40, 50)
    assert torch.equal(mask[5:33, 3:31], disc) and mask.sum() == disc.sum()


@pytest.mark.parametrize("box", [[5.0, 5, 5, 9], [7.2, 7.2, 7.3, 7.3], [0, 0, 0, 0]])
def test_boxes_without_an_extent_are_at_most_a_pixel(box: list[float]) -> None:
    assert pasted(torch.ones(1, 28, 28), torch.tensor([box]), 10, 10).sum() <= 1


def test_small_masks_keep_their_area() -> None:
    """A disc of 9 pixels across, cropped by hand to its box and pasted back, at 50 places."""
    generator = np.random.default_rng(0)
    share = []
    for _ in range(50):
        x, y = generator.uniform(5, 20, 2)
        box = torch.tensor([[x, y, x + 9, y + 9]], dtype=torch.float32)
        disc = torch.from_numpy(np.hypot(*(np.mgrid[:28, :28] - 13.5)) < 14).float()
        share.append(float(pasted(disc[None], box, 40, 40).sum()) / (np.pi * 4.5**2))
    assert np.mean(share) == pytest.approx(1, abs=0.06)


def test_no_detection_is_no_mask() -> None:
    assert paste_rles(torch.zeros(0, 28, 28), torch.zeros(0, 4), 5, 6) == []


def test_masks_are_those_of_the_reference() -> None:
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
    dense = sampled(maps, boxes, height, width)
    rles = paste_rles(maps, boxes, height, width)
    assert [rle["size"] for rle in rles] == [[height, width]] * count
    back = np.stack([masks.decode(rle) for rle in rles])
    assert (back != dense.numpy()).sum() <= 1e-6 * back.size and back.any() and not back.all()
    assert all(rle == masks.encode(masks.decode(rle)) for rle in rles), "not in the canonical form"
