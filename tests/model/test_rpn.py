import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from bcnet_core.config.choices import Geometry
from bcnet_core.model.rpn import StridedAnchors, build_rpn, pairwise_iou


def test_anchors_lie_at_the_strides_and_are_not_rounded() -> None:
    """An image of 96 px has a P6 of 2 cells, which are 64 px apart and not 48."""
    levels = [torch.zeros(1, 8, size, size) for size in (24, 12, 6, 3, 2)]
    anchors = StridedAnchors((4, 8, 16, 32, 64), scales=(8,), geometry="exact")
    (boxes,) = anchors(ImageList(torch.zeros(1, 3, 96, 96), [(96, 90)]), levels)
    assert len(boxes) == 3 * (24**2 + 12**2 + 6**2 + 3**2 + 2**2)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert centers[-3:].tolist() == [[64.0, 64.0]] * 3
    sides = boxes[:3, 2:] - boxes[:3, :2]
    torch.testing.assert_close(sides.prod(1), torch.full((3,), 32.0**2))
    torch.testing.assert_close(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1.0, 2.0]))


def test_proposals_keep_their_precision_under_autocast() -> None:
    """In bfloat16 a coordinate near 900 is a multiple of 4."""
    torch.manual_seed(0)
    anchors = StridedAnchors((8,), scales=(8,), geometry="exact")
    rpn = build_rpn(channels=16, convs=1, anchors=anchors, candidates_per_level=50, proposals=20).eval()
    image = ImageList(torch.zeros(1, 3, 960, 960), [(960, 960)])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (boxes,), _ = rpn(image, {"0": torch.randn(1, 16, 120, 120)})
    assert boxes.dtype == torch.float32
    far = boxes[(boxes > 512) & (boxes < 960)]
    assert len(far) > 0 and not torch.equal(far, far.bfloat16().float())


def test_torchvision_geometry_places_anchors_like_its_own_generator() -> None:
    levels = [torch.zeros(1, 8, height, width) for height, width in ((24, 32), (12, 16), (6, 8), (3, 4), (2, 2))]
    image = ImageList(torch.zeros(1, 3, 96, 128), [(96, 120)])
    (boxes,) = StridedAnchors((4, 8, 16, 32, 64), scales=(8,), geometry="torchvision")(image, levels)
    generator = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    assert torch.equal(boxes, generator(image, levels)[0])
    centers = (boxes[-12:, :2] + boxes[-12:, 2:]) / 2
    assert centers[::3].tolist() == [[0, 0], [64, 0], [0, 48], [64, 48]], "half of 96 pixels, rounded up or not"


def test_several_sides_a_place_have_all_ratios_each() -> None:
    level, image = [torch.zeros(1, 16, 2, 3)], ImageList(torch.zeros(1, 3, 16, 24), [(16, 24)])
    anchors = StridedAnchors((8,), scales=(4, 8), geometry="exact")
    (boxes,) = anchors(image, level)
    first = boxes[:6, 2:] - boxes[:6, :2]
    torch.testing.assert_close(first.prod(1), torch.tensor([32.0**2] * 3 + [64.0**2] * 3))
    torch.testing.assert_close(first[:, 1] / first[:, 0], torch.tensor([0.5, 1.0, 2.0] * 2))
    rpn = build_rpn(channels=16, convs=1, anchors=anchors, candidates_per_level=50, proposals=20)
    assert [tuple(part[0].shape) for part in rpn.head(level)] == [(1, 6, 2, 3), (1, 24, 2, 3)]
    (theirs,) = AnchorGenerator(((32, 64),), ((0.5, 1.0, 2.0),))(image, level)
    assert torch.equal(StridedAnchors((8,), scales=(4, 8), geometry="torchvision")(image, level)[0], theirs)


@pytest.mark.parametrize("geometry", ["exact", "torchvision"])
def test_anchors_keep_their_precision_under_autocast(geometry: Geometry) -> None:
    image = ImageList(torch.zeros(1, 3, 960, 960), [(960, 960)])
    anchors = StridedAnchors((8,), scales=(8,), geometry=geometry)
    (boxes,) = anchors(image, [torch.zeros(1, 4, 120, 120)])
    (half,) = anchors(image, [torch.zeros(1, 4, 120, 120, dtype=torch.bfloat16)])
    assert half.dtype == torch.float32 and torch.equal(boxes, half)


@pytest.mark.parametrize(("objects", "anchors"), [(0, 5), (3, 0), (1, 1), (7, 100_000), (300, 2_000)])
def test_pairwise_iou_is_torchvisions(objects: int, anchors: int) -> None:
    generator = torch.Generator().manual_seed(objects)

    def boxes(count: int) -> torch.Tensor:
        corners = torch.rand(count, 2, generator=generator) * 400 - 50
        return torch.cat([corners, corners + torch.rand(count, 2, generator=generator) * 90], dim=1)

    first, second = boxes(objects), boxes(anchors)
    if objects and anchors:
        second[0] = first[0]
    assert torch.equal(pairwise_iou(first, second), box_iou(first, second))


def test_anchors_are_matched_by_it() -> None:
    anchors = StridedAnchors((8,), scales=(4,), geometry="exact")
    assert (
        build_rpn(channels=8, convs=1, anchors=anchors, candidates_per_level=5, proposals=5).box_similarity
        is pairwise_iou
    )
