"""Images that are looked at together are found what they are found alone."""

import pytest
import torch

from bcnet_core.config.data import DataConfig
from bcnet_core.config.model import ModelConfig
from bcnet_core.config.schema import Recipe
from bcnet_core.model.detectors import build_detector


@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
def test_a_batch_gives_the_results_of_its_images(kind: str) -> None:
    torch.manual_seed(0)
    small = {"backbone": "tiny", "channels": 32, "tower_convs": 1, "anchor_scale": 4, "detections_per_image": 3}
    model = ModelConfig.model_validate({"detector": kind, "score_threshold": 0.0, **small})
    detector = build_detector(Recipe(data=DataConfig(min_size=64, max_size=96), model=model), [{"id": 1, "name": "x"}])
    detector.eval()
    images = [torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in range(3)]

    def detect(*which: int) -> list[list[torch.Tensor]]:
        batch = detector.preprocess([images[one] for one in which])
        found = detector.heads.detect(detector.backbone(batch.tensors), batch)
        return [[one.proposals.boxes, one.proposals.scores, *one.logits.values()] for one in found]

    with torch.no_grad():
        together = detect(0, 1, 2)
        alone = [detect(number)[0] for number in range(3)]
    assert len(together) == 3 and all(len(boxes) == 3 for boxes, *_ in together)
    for found, expected in zip(together, alone, strict=True):
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert not torch.equal(together[0][-1], together[1][-1])
