"""The order of detected instances, from their maps."""

import numpy as np
import pytest
import torch

from bcnet_core import masks
from bcnet_core.masks.crops import crop_rles
from bcnet_core.masks.map_order import map_pairs
from bcnet_core.masks.order import front_pairs
from bcnet_core.model.losses import crop_to_boxes
from bcnet_core.synth.shapes import compose_scene

SURE = 0.9


def maps_of(rles: list[masks.RLE], boxes: torch.Tensor, *, size: int = 28, sure: float = SURE) -> torch.Tensor:
    """What a head that knows these masks predicts in the boxes."""
    cells = crop_to_boxes(crop_rles(rles), torch.arange(len(rles)), boxes, size=size).float()
    return cells * sure + (1 - cells) * (1 - sure)


def named(
    visible: torch.Tensor, whole: torch.Tensor | None = None, *, occluder: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    maps = {"occludee_mask": visible, "amodal_mask": whole, "occluder_mask": occluder}
    return {name: values for name, values in maps.items() if values is not None}


def boxes_of(rles: list[masks.RLE]) -> torch.Tensor:
    boxes = torch.tensor(np.array([masks.bounding_box(rle) for rle in rles]), dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def box(x0: int, y0: int, x1: int, y1: int) -> masks.RLE:
    return masks.from_box(x0, y0, x1, y1, 64, 64)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("size", [28, 56])
def test_maps_that_know_the_masks_give_their_order(seed: int, size: int) -> None:
    scene = compose_scene(np.random.default_rng(seed), height=128, width=128, hard=True)
    visible = [masks.encode(one.visible) for one in scene.objects]
    whole = [masks.encode(one.amodal) for one in scene.objects]
    boxes = boxes_of(whole)
    found = set(map_pairs(named(maps_of(visible, boxes, size=size), maps_of(whole, boxes, size=size)), boxes))
    clear = [
        pair
        for pair in front_pairs(visible, whole, least=0.1)
        if masks.area(masks.intersection(whole[pair.front], whole[pair.back])) > 0.1 * masks.area(whole[pair.front])
    ]
    assert {pair for pair in clear if pair[::-1] in found} == set()
    assert set(clear) <= found


def test_doubtful_maps_still_decide() -> None:
    """No mask has a pixel here, as no probability reaches a half."""
    whole = [box(0, 0, 40, 40), box(20, 0, 60, 40)]
    visible = [whole[0], box(40, 0, 60, 40)]
    boxes = boxes_of(whole)
    maps = [maps_of(part, boxes) * 0.45 for part in (visible, whole)]
    assert map_pairs(named(*maps), boxes) == [(0, 1)]


def test_without_whole_maps_the_occluder_maps_tell_the_order() -> None:
    claims = [box(0, 0, 40, 40), box(20, 0, 60, 40)]
    boxes = boxes_of(claims)
    maps, nothing = maps_of(claims, boxes), torch.zeros(28, 28)
    over = maps_of([box(0, 0, 20, 40), box(20, 0, 40, 40)], boxes)
    assert map_pairs(named(maps, occluder=torch.stack([nothing, over[1]])), boxes) == [(0, 1)]
    assert map_pairs(
        named(maps, occluder=torch.stack([maps_of([box(20, 0, 40, 40)], boxes[:1])[0], nothing])), boxes
    ) == [(1, 0)]
    assert map_pairs(named(maps), boxes) == [], "nothing tells it"


def test_instances_that_only_touch_are_no_pair() -> None:
    beside = [box(0, 0, 20, 40), box(20, 0, 40, 40)]
    boxes = boxes_of(beside) + torch.tensor([-2.0, -2, 2, 2])
    maps = maps_of(beside, boxes)
    assert map_pairs(named(maps, occluder=torch.ones_like(maps)), boxes) == []


def test_no_instance_is_no_pair() -> None:
    nothing = torch.zeros(0, 28, 28)
    assert map_pairs(named(nothing, nothing), torch.zeros(0, 4)) == []
