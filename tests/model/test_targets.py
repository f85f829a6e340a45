from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from bcnet_core import masks
from bcnet_core.data.dataset import Targets
from bcnet_core.masks.crops import concatenate, crop_rles, paste_rles
from bcnet_core.model.losses import bilayer_targets, boundary, crop_to_boxes
from bcnet_core.model.rois import RoIs, jittered_rois
from tests.data.test_transforms import blank_scene

PARITY = Path(__file__).parent.parent / "parity" / "boundary.npz"


def blob(rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
    noise = ndimage.gaussian_filter(rng.standard_normal((height, width)), 3)
    return np.asarray(noise > 0.02)


def test_boundaries_equal_the_official_ones_bit_by_bit() -> None:
    with np.load(PARITY) as numbers:
        got = boundary(torch.from_numpy(numbers["masks"].astype(bool))).numpy()
        assert (got == numbers["boundary"].astype(bool)).all()


def test_a_boundary_is_dilation_xor_erosion() -> None:
    mask = blob(np.random.default_rng(0), 28, 28)
    cross = ndimage.generate_binary_structure(2, 1)
    expected = ndimage.binary_dilation(mask, cross) ^ ndimage.binary_erosion(mask, cross, border_value=1)
    assert (boundary(torch.from_numpy(mask)[None])[0].numpy() == expected).all()


def test_a_full_mask_has_no_boundary() -> None:
    assert not boundary(torch.ones(1, 28, 28, dtype=torch.bool)).any()


@pytest.mark.parametrize("size", [56, 112])
def test_a_boundary_keeps_its_share_of_the_box(size: int) -> None:
    cells = torch.arange(size)
    published, larger = (boundary((torch.arange(side) < side // 2).expand(1, side, side)) for side in (28, size))
    assert published[0, 0].nonzero()[:, 0].tolist() == [13, 14]
    assert torch.equal(larger[0, 0], published[0, 0][cells * 28 // size])


def test_larger_targets_follow_thin_objects_better() -> None:
    rows, columns = np.mgrid[:300, :300]
    ring = np.abs(np.hypot(rows - 150, columns - 150) - 130) < 4
    rle, box = masks.encode(ring), torch.tensor([[15.0, 15, 285, 285]])
    overlaps = []
    for size in (28, 56, 112):
        target = crop_to_boxes(crop_rles([rle]), torch.tensor([0]), box, size=size)
        (pasted,) = paste_rles(target.float(), box, 300, 300)
        overlaps.append(masks.iou(pasted, rle))
    assert overlaps[0] < 0.6 and 0.75 < overlaps[1] < 0.85 < overlaps[2]


def test_crops_equal_a_dense_reference() -> None:
    rng = np.random.default_rng(1)
    dense = [blob(rng, 60, 90), np.zeros((60, 90), bool), blob(rng, 60, 90)]
    crops = crop_rles([masks.encode(dense[0]), None, masks.encode(dense[2])])
    boxes = torch.tensor([[3.0, 5, 31, 33], [0, 0, 28, 28], [-20.0, -10, 64, 74]])
    got = crop_to_boxes(crops, torch.tensor([0, 1, 2]), boxes, size=28, samples=1).numpy()
    assert (got[0] == dense[0][5:33, 3:31]).all()
    assert not got[1].any()
    x = np.floor(-20 + 84 * (np.arange(28) + 0.5) / 28).astype(int)
    y = np.floor(-10 + 84 * (np.arange(28) + 0.5) / 28).astype(int)
    padded = np.pad(dense[2], 100)
    assert (got[2] == padded[np.ix_(y + 100, x + 100)]).all()


def test_a_cell_is_set_where_half_of_its_pixels_are() -> None:
    mask = np.zeros((6, 6), bool)
    mask[0, :3] = mask[1, :2] = True  # 5 of the 9 pixels of the first cell
    mask[3, :3] = mask[4, 0] = True  # 4 of the 9 of the one below
    crops = crop_rles([masks.encode(mask)])
    got = crop_to_boxes(crops, torch.tensor([0]), torch.tensor([[0.0, 0, 6, 6]]), size=2)
    assert got[0].tolist() == [[True, False], [False, False]]


def test_half_of_a_cell_is_enough_and_nine_samples_are_taken() -> None:
    dense = np.zeros((8, 8), bool)
    dense[2:5, 3:8] = dense[4:7, 2:4] = True
    crops, first, whole = crop_rles([masks.encode(dense)]), torch.tensor([0]), torch.tensor([[0.0, 0, 8, 8]])
    halves = dense.reshape(4, 2, 4, 2).sum((1, 3)) >= 2
    assert (crop_to_boxes(crops, first, whole, size=4, samples=2)[0].numpy() == halves).all()
    noise = crop_rles([masks.encode(np.random.default_rng(7).random((50, 50)) < 0.5)])
    three, four = (crop_to_boxes(noise, first, 6 * whole, size=7, samples=samples) for samples in (3, 4))
    assert torch.equal(crop_to_boxes(noise, first, 6 * whole, size=7), three) and not torch.equal(three, four)


def test_a_mask_far_from_the_corner_is_read_at_its_place() -> None:
    """A mask keeps the pixels of its own box alone; boxes beside it, and far outside of the image, see nothing."""
    dense = np.zeros((90, 120), bool)
    dense[51:74, 67:98] = np.random.default_rng(6).random((23, 31)) < 0.5
    crops = crop_rles([masks.encode(dense)])
    boxes = torch.tensor([[60.0, 45, 100, 85], [0, 0, 40, 40], [-9e4, -9e4, -8e4, -8e4], [8e4, 8e4, 9e4, 9e4]])
    got = crop_to_boxes(crops, torch.zeros(4, dtype=torch.int64), boxes, size=40, samples=1).numpy()
    assert (got[0] == dense[45:85, 60:100]).all()
    assert not got[1:].any()


def test_few_samples_give_the_area_that_many_give() -> None:
    rng = np.random.default_rng(5)
    disc = np.hypot(*np.mgrid[-100:101, -100:101]) <= 80
    crops, instances = crop_rles([masks.encode(disc)]), torch.zeros(200, dtype=torch.int64)
    corners = torch.from_numpy(rng.uniform(0, 16, (200, 2)).astype(np.float32))
    boxes = torch.cat([corners, corners + 170], dim=1)
    few, many = (crop_to_boxes(crops, instances, boxes, size=28, **more).sum() for more in ({}, {"samples": 15}))
    assert abs(float(few / many) - 1) < 0.005


def test_concatenated_crops_keep_their_masks() -> None:
    rng = np.random.default_rng(2)
    dense = [blob(rng, 30, 30) for _ in range(4)]
    both = concatenate(
        [crop_rles([masks.encode(m) for m in dense[:1]]), crop_rles([masks.encode(m) for m in dense[1:]])]
    )
    whole = torch.tensor([[0.0, 0, 30, 30]]).repeat(4, 1)
    got = crop_to_boxes(both, torch.arange(4), whole, size=30, samples=1).numpy()
    assert (got == np.stack(dense)).all()


@pytest.mark.parametrize("flip", [False, True])
def test_both_layers_move_with_the_image(flip: bool) -> None:
    """Crops read through the placement equal crops of masks that were resized and mirrored themselves."""
    rng = np.random.default_rng(3)
    occludee, occluder = blob(rng, 60, 80), blob(rng, 60, 80)
    placement = blank_scene(60, 80)._replace(size=(120, 160), mirrored=flip).placement
    targets = Targets(
        torch.tensor([[20.0, 10, 76, 66]]),
        torch.zeros(1, dtype=torch.int64),
        crop_rles([masks.encode(occludee)]),
        crop_rles([masks.encode(occluder)]),
        crop_rles([None]),
        torch.tensor(placement),
    )
    rois = RoIs(targets.boxes, torch.tensor([0]), torch.tensor([0]), torch.tensor([0.5]))
    got = bilayer_targets([targets], rois, size=28)
    for layer, dense in ((got["occludee_mask"], occludee), (got["occluder_mask"], occluder)):
        moved = dense.repeat(2, 0).repeat(2, 1)
        moved = moved[:, ::-1] if flip else moved
        assert (layer[0].numpy() == moved[10:66:2, 20:76:2]).all()


def test_jittered_rois_depend_on_the_image_alone() -> None:
    def target(count: int) -> Targets:
        boxes = torch.tensor([[10.0, 10, 50, 30]]).repeat(count, 1)
        empty = crop_rles([None] * count)
        return Targets(boxes, torch.zeros(count, dtype=torch.int64), empty, empty, empty, torch.tensor([1.0, 0, 1, 0]))

    assert not jittered_rois([target(300)], [1], most=9).keys.max() < 0.3  # being kept says nothing about the key
    together = jittered_rois([target(3), target(5)], [7, 8], most=4)
    alone = jittered_rois([target(5)], [8], most=4)
    assert together.images.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert torch.equal(together.boxes[3:], alone.boxes)
    assert (together.instances[3:] >= 3).all()
    moved = (together.boxes - torch.tensor([10.0, 10, 50, 30])).abs()
    assert (moved[:, 0::2] <= 4).all() and (moved[:, 1::2] <= 2).all() and moved.max() > 0.5


def test_an_image_without_masks_gives_empty_maps() -> None:
    crops = crop_rles([None, None])
    got = crop_to_boxes(crops, torch.tensor([1, 0, 0]), torch.tensor([[0.0, 0, 9, 9]]).repeat(3, 1), size=7)
    assert got.shape == (3, 7, 7) and got.dtype == torch.bool and not got.any()


def test_no_boxes_give_no_maps() -> None:
    crops = crop_rles([masks.encode(np.ones((9, 9), bool))])
    got = crop_to_boxes(crops, torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), size=7)
    assert got.shape == (0, 7, 7) and got.dtype == torch.bool


def test_targets_are_computed_on_the_device_of_the_boxes() -> None:
    """What is made anew without a word of its device would land on the default one, here one that holds no values."""
    crops, empty = crop_rles([masks.encode(np.ones((9, 9), bool))]), crop_rles([None])
    boxes, first = torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0])
    with torch.device("meta"):
        assert crop_to_boxes(crops, first, boxes, size=7).tolist() == np.ones((1, 7, 7), bool).tolist()
        assert crop_to_boxes(empty, first, boxes, size=7).tolist() == np.zeros((1, 7, 7), bool).tolist()


def test_more_boxes_than_are_cropped_at_once_keep_their_order() -> None:
    dense = np.zeros((1, 200), bool)
    dense[0, ::3] = True
    left = torch.arange(200.0)
    boxes = torch.stack([left, torch.zeros(200), left + 1, torch.ones(200)], dim=1)
    got = crop_to_boxes(crop_rles([masks.encode(dense)]), torch.zeros(200, dtype=torch.int64), boxes, size=1)
    assert got[:, 0, 0].tolist() == dense[0].tolist()


def test_each_image_and_layer_has_its_own_place() -> None:
    """Two images of different placements, three instances: every RoI reads the masks of its instance in its image."""
    rng = np.random.default_rng(4)
    dense = [(blob(rng, 40, 50), blob(rng, 40, 50)) for _ in range(3)]
    box = torch.tensor([[5.0, 8, 33, 36]])

    def targets(pairs: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]], placement: list[float]) -> Targets:
        occludees, occluders = (crop_rles([masks.encode(pair[layer]) for pair in pairs]) for layer in (0, 1))
        count = len(pairs)
        labels = torch.zeros(count, dtype=torch.int64)
        return Targets(
            box.repeat(count, 1), labels, occludees, occluders, crop_rles([None] * count), torch.tensor(placement)
        )

    images = [targets(dense[:1], [1, 0, 1, 0]), targets(dense[1:], [2, -6, 4, 3])]
    places = [(1, 0, 1, 0), (2, -6, 4, 3), (2, -6, 4, 3)]  # scale and shift of x, then of y
    order = [2, 0, 1]
    boxes = []
    for number in order:
        scale_x, shift_x, scale_y, shift_y = places[number]
        scale, shift = torch.tensor([scale_x, scale_y] * 2), torch.tensor([shift_x, shift_y] * 2)
        boxes.append(box[0] * scale + shift)
    rois = RoIs(torch.stack(boxes), torch.tensor([1, 0, 1]), torch.tensor(order), torch.rand(3))
    got = bilayer_targets(images, rois, size=28)
    for row, number in enumerate(order):
        assert (got["occludee_mask"][row].numpy() == dense[number][0][8:36, 5:33]).all()
        assert (got["occluder_mask"][row].numpy() == dense[number][1][8:36, 5:33]).all()
    assert torch.equal(got["occludee_boundary"], boundary(got["occludee_mask"]))
    assert torch.equal(got["occluder_boundary"], boundary(got["occluder_mask"]))
