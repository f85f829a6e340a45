"""The mask head and its losses against recordings of the official code; tolerances are ten times its own noise."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bcnet_core.model.head import BilayerMaskHead
from bcnet_core.model.losses import bilayer_losses
from bcnet_core.weights.from_detectron2 import mask_head_name
from tests.parity.rule import input_for, weights_for

PARITY = Path(__file__).parent.parent / "parity"
OFFICIAL = {"occludee_mask": "mask", "occludee_boundary": "boundary", "occluder_mask": "mask_bo",
            "occluder_boundary": "boundary_bo"}  # fmt: skip


@pytest.fixture
def head() -> BilayerMaskHead:
    shapes = json.loads((PARITY / "maskhead_keys.json").read_text())
    state = {mask_head_name(key): torch.as_tensor(weights_for(key, shape, "open")) for key, shape in shapes.items()}
    head = BilayerMaskHead()
    head.load_state_dict(state)
    return head


def test_the_head_equals_the_official_one(head: BilayerMaskHead) -> None:
    features = torch.from_numpy(input_for("maskhead", (6, 256, 14, 14), "open"))
    with np.load(PARITY / "maskhead.npz") as official, torch.no_grad():
        for prefix, inputs, tolerance in (
            ("eval", features, 1e-4),
            ("eval1", features[:1], 1e-4),
            ("train", features, 5e-4),
        ):
            logits = head.train(prefix == "train")(inputs)
            for ours, theirs in OFFICIAL.items():
                expected = torch.from_numpy(official[f"{prefix}_{theirs}"][:, 0])
                torch.testing.assert_close(logits[ours], expected, rtol=0, atol=tolerance)
        for layer, name in ((head.occludee, "bound"), (head.occluder, "bound_bo")):
            mean = torch.from_numpy(official[f"train_blocker_{name}_running_mean"])
            torch.testing.assert_close(layer.attention.norm.running_mean, mean, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "case", ["main", "one_occluded", "all_occluded", "first_occluded", "single_roi", "no_occluder"]
)
def test_the_losses_equal_the_official_ones(case: str) -> None:
    """The official boundary terms are twice a cross-entropy; their weight of 0.5 is our weight of 1."""
    with np.load(PARITY / "loss.npz") as official:
        recorded = dict(zip(OFFICIAL, ("gt_masks", "gt_boundary", "gt_bo_masks", "gt_boundary_bo"), strict=True))
        targets = {ours: torch.from_numpy(official[f"{case}_{key}"].astype(bool)) for ours, key in recorded.items()}
        count = len(targets["occludee_mask"])
        logits = {
            ours: torch.from_numpy(input_for(f"logits_{case}_{theirs}", (count, 1, 28, 28), "open")[:, 0])
            for ours, theirs in OFFICIAL.items()
        }
        losses = bilayer_losses(logits, targets, torch.zeros(count), sampling="official")
        got = [
            losses["occludee_mask"],
            losses["occluder_mask"],
            2 * losses["occludee_boundary"],
            2 * losses["occluder_boundary"],
        ]
        np.testing.assert_allclose([float(loss) for loss in got], official[f"{case}_losses"], atol=1e-5)
