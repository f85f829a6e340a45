import numpy as np
import pytest
import torch

from bcnet_core.model.mask_branch import Found, Proposals, mask_confidence, score_masks
from tests.model.test_detectors import build


def test_confidence_is_the_mean_probability_of_the_cells_inside() -> None:
    maps = torch.tensor([[[0.9, 0.7], [0.1, 0.5]], [[0.4, 0.4], [0.4, 0.4]], [[1.0, 1.0], [1.0, 1.0]]])
    assert mask_confidence(maps).tolist() == pytest.approx([0.8, 0.0, 1.0])
    assert mask_confidence(maps[:0]).shape == (0,)


def test_a_sharp_mask_overtakes_a_blurred_one() -> None:
    logits = torch.tensor([0.1, 4.0])[:, None, None].expand(2, 4, 4)
    proposals = Proposals(torch.tensor([[0.0, 0, 9, 9], [5, 5, 8, 8]]), torch.tensor([0.9, 0.8]), torch.tensor([3, 1]))
    found = score_masks(Found(proposals, {"occludee_mask": logits, "occluder_mask": -logits}))
    assert found.proposals.labels.tolist() == [1, 3]
    assert found.proposals.boxes[0].tolist() == [5, 5, 8, 8]
    assert found.proposals.scores.tolist() == pytest.approx([0.8 * 0.98201, 0.9 * 0.52498], abs=1e-4)
    assert found.logits["occludee_mask"][0, 0, 0] == 4
    assert found.logits["occluder_mask"][0, 0, 0] == -4


@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
def test_a_detector_scores_its_masks(kind: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    plain, scored = (build(kind, mask_scoring=scoring).eval().predict([image])[0] for scoring in (False, True))
    expected = (plain.scores * mask_confidence(plain.occludee_mask)).sort(descending=True)
    assert len(plain.scores) > 1
    torch.testing.assert_close(scored.scores, expected.values)
    assert (scored.scores.diff() <= 0).all()
    ranked = plain.boxes[expected.indices]
    clear = expected.values.diff().abs().min() > 1e-7
    assert not clear or torch.equal(scored.boxes, ranked)
