"""The starts that are compared: published weights, and none."""

from __future__ import annotations

from benchmarks.study.trials import Variant

EVALUATIONS = 4
"""Evaluations along a trial."""
SCRATCH = (
    "model.init=none", "model.frozen_norm=false", "model.frozen_stages=0", "solver.backbone_lr=none",
    "solver.layer_decay=1",
)  # fmt: skip
"""Settings without which random weights cannot learn: every layer is trained, BatchNorm with its batch's statistics."""
VARIANTS = {
    "start": Variant("published weights", minus=("scratch", "tiny")),
    "scratch": Variant("from scratch", SCRATCH),
    "tiny": Variant("from scratch, backbone tiny", (*SCRATCH, "model.backbone=tiny")),
}
"""The first is the recipe as it is."""
