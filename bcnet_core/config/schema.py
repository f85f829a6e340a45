"""The schema of a recipe: every setting with its type, default, range and meaning.

Unknown keys are errors, recipes are frozen. The descriptions are what `bcnet recipes show` prints.
"""

from __future__ import annotations

from pydantic import BaseModel, Field

from bcnet_core.config.choices import GIoU, Normalizer
from bcnet_core.config.data import DataConfig
from bcnet_core.config.model import ModelConfig
from bcnet_core.config.numbers import NonNegative
from bcnet_core.config.solver import SolverConfig


class LossConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Forms and weights of the loss terms; the default weights are the official FCOS release's."""

    normalizer: Normalizer = Field(
        "floored", description="divisor of FCOS's class and centerness terms: positives, or at least 1 (floored)"
    )
    giou: GIoU = Field(
        "exact", description="FCOS's box term: GIoU, or the release's, which adds 1 to intersection and union"
    )
    classification: NonNegative = Field(1.0, description="weight of the class term")
    box: NonNegative = Field(
        1.25, description="weight of the box term: GIoU (FCOS), smooth L1 (Faster R-CNN, usually 1)"
    )
    centerness: NonNegative = Field(1.0, description="weight of the centerness term (FCOS)")
    proposal_objectness: NonNegative = Field(1.0, description="weight of the proposals' objectness (Faster R-CNN)")
    proposal_box: NonNegative = Field(1.0, description="weight of the proposals' boxes (Faster R-CNN)")
    occludee_mask: NonNegative = Field(1.0, description="weight of layer 2's mask")
    occluder_mask: NonNegative = Field(0.25, description="weight of layer 1's mask")
    occludee_boundary: NonNegative = Field(1.0, description="weight of layer 2's boundary (0.5 x 2 BCE in the release)")
    occluder_boundary: NonNegative = Field(1.0, description="weight of layer 1's boundary (0.5 x 2 BCE in the release)")
    amodal_mask: NonNegative = Field(1.0, description="weight of the whole mask (model.amodal)")
    mask_dice: NonNegative = Field(
        0.0, description="weight of a dice loss beside the cross-entropy of a mask, within the mask's own weight"
    )


class Recipe(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """All settings that determine a training run."""

    seed: int = Field(0, ge=0, lt=2**63, description="seed of weights, order, augmentation and sampling")
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    solver: SolverConfig = SolverConfig()

    @property
    def trains_occluders(self) -> bool:
        """Return whether there is an occluder layer with a loss."""
        return self.model.layers > 1 and self.loss.occluder_mask + self.loss.occluder_boundary > 0

    @property
    def reads_wholes(self) -> bool:
        """Return whether whole masks are read where annotations have them."""
        return self.model.amodal or self.amodal_boxes

    @property
    def amodal_boxes(self) -> bool:
        """Return whether boxes enclose the whole object, hidden parts included."""
        return self.data.boxes == "amodal" or (self.data.boxes == "auto" and self.model.amodal)
