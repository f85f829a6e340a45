import torch

from bcnet_core.model.rois import matched_rois
from tests.model.test_detectors import targets


def test_proposals_on_an_instance_come_first_then_the_ground_truth() -> None:
    proposals = [
        torch.tensor([[60.0, 60, 64, 64], [10, 10, 40, 29], [10, 10, 20, 30]]),  # beside it, on it, a third of it
        torch.zeros(0, 4),
        torch.tensor([[0.0, 0, 9, 9]]),
    ]
    rois = matched_rois(proposals, [targets(1), targets(0), targets(1, box=(0, 0, 8, 8))], [1, 2, 3], most=0)
    assert rois.boxes.tolist() == [[10, 10, 40, 29], [10, 10, 40, 30], [0, 0, 9, 9], [0, 0, 8, 8]]
    assert rois.images.tolist() == [0, 0, 2, 2] and rois.instances.tolist() == [0, 0, 1, 1]


def test_too_many_are_drawn_by_the_seed_and_keep_their_order() -> None:
    proposals = [torch.tensor([[10.0, 10, 40, 30 + i / 100] for i in range(50)])]
    few, again, other = (matched_rois(proposals, [targets(1)], [seed], most=8).boxes for seed in (1, 1, 2))
    assert len(few) == 8 and torch.equal(few, again) and not torch.equal(few, other)
    assert (few[:-1, 3].diff() > 0).all()
