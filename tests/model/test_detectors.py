from pathlib import Path

import numpy as np
import pytest
import torch

from bcnet_core import BCNetError, masks
from bcnet_core.config.schema import DataConfig, LossConfig, ModelConfig, Recipe
from bcnet_core.data.crops import crop_rles
from bcnet_core.data.dataset import Targets
from bcnet_core.data.transforms import resize
from bcnet_core.model.detectors import Detector, build_detector

CATEGORIES = [{"id": 7, "name": "disc"}, {"id": 9, "name": "box"}]
TERMS = {
    "classification", "box", "centerness",
    "occludee_mask", "occludee_boundary", "occluder_mask", "occluder_boundary",
}  # fmt: skip


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(0)
    recipe = Recipe(
        data=DataConfig(min_size=64, max_size=96), model=ModelConfig(channels=32, tower_convs=1, score_threshold=0.0)
    )
    return build_detector(recipe, CATEGORIES)


def targets(count: int) -> Targets:
    mask = np.zeros((64, 64), bool)
    mask[10:30, 10:40] = True
    rles = [masks.encode(mask)] * count
    boxes = torch.tensor([[10.0, 10, 40, 30]]).repeat(count, 1)
    placement = torch.tensor([1.0, 0, 1, 0])
    return Targets(boxes, torch.zeros(count, dtype=torch.int64), crop_rles(rles), crop_rles(rles), placement)


@pytest.mark.parametrize("counts", [(2, 1), (3, 0), (0, 0)])
def test_all_terms_are_finite_and_reach_every_weight(detector: Detector, counts: tuple[int, int]) -> None:
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8), torch.zeros(3, 50, 70, dtype=torch.uint8)]
    losses = detector(images, [targets(count) for count in counts], [1, 2])
    assert losses.keys() == TERMS
    assert all(loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, parameter in detector.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in detector.parameters() if parameter.grad is not None)


def test_images_are_padded_right_and_below(detector: Detector) -> None:
    batch = detector.preprocess(
        [torch.full((3, 20, 40), 255, dtype=torch.uint8), torch.zeros(3, 33, 10, dtype=torch.uint8)]
    )
    assert batch.shape == (2, 3, 64, 64)
    assert batch[0, :, 20:].abs().sum() == batch[0, :, :, 40:].abs().sum() == 0
    assert float(batch[0, 0, 0, 0]) == pytest.approx((255 - 123.675) / 58.395)


def test_predictions_lie_in_the_input_image(detector: Detector, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 120, 3)).astype(np.uint8)
    (found,) = detector.eval().predict([image])
    count = len(found.boxes)
    assert 0 < count <= 100
    assert found.masks.shape == (count, 48, 120) and found.masks.dtype == torch.bool
    assert found.boxes.min() >= 0 and found.boxes[:, 2].max() <= 120 and found.boxes[:, 3].max() <= 48
    assert set(found.labels.tolist()) <= {0, 1}
    for maps in (found.occludee_mask, found.occludee_boundary, found.occluder_mask, found.occluder_boundary):
        assert maps.shape == (count, 28, 28) and 0 <= maps.min() <= maps.max() <= 1


def test_nothing_found_is_a_result(detector: Detector) -> None:
    detector.score_threshold = 1.0
    (found,) = detector.eval().predict([np.zeros((40, 40, 3), np.uint8)])
    assert found.boxes.shape == (0, 4) and found.masks.shape == (0, 40, 40) and found.occluder_mask.shape == (0, 28, 28)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image_is_refused(detector: Detector, image: np.ndarray) -> None:
    with pytest.raises(BCNetError, match="uint8 RGB"):
        detector.eval().predict([image])


def test_a_resized_image_gives_boxes_and_masks_of_its_own_size(detector: Detector) -> None:
    """A picture and its reduction are the same network input, so the answers differ in scale alone."""
    large = np.random.default_rng(1).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    small = resize(large, 64, 64)
    detector.eval()
    detector.detections_per_image = 5
    (one,) = detector.predict([small])
    (two,) = detector.predict([large])
    torch.testing.assert_close(two.boxes, 2 * one.boxes, rtol=0, atol=1e-3)
    assert two.masks.shape[1:] == (128, 128)


def test_weights_of_the_terms_are_applied(detector: Detector) -> None:
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)]
    before = detector(images, [targets(2)], [1])
    detector.loss_weights = LossConfig(box=2.5, occluder_mask=0.5)
    after = detector(images, [targets(2)], [1])
    ratio = {name: float(after[name].detach() / before[name].detach()) for name in TERMS}
    assert ratio == pytest.approx({**dict.fromkeys(TERMS, 1.0), "box": 2.0, "occluder_mask": 2.0}, rel=1e-3)
