"""The section `solver` of a recipe."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, model_validator

from bcnet_core.config.choices import OptimizerName, PrecisionOrAuto, ScheduleName
from bcnet_core.config.numbers import Epochs, Milestone, NonNegative, Positive


class SolverConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Optimization."""

    steps: Positive = Field(90_000, description="number of optimizer steps, unless solver.epochs sets it")
    epochs: Annotated[Epochs, Field(gt=0)] | None = Field(
        None, description="passes over the training images, which set the steps; none: solver.steps counts"
    )
    min_steps: int = Field(0, ge=0, description="least number of steps that solver.epochs sets, for small data sets")
    batch_size: Positive = Field(16, description="images per step, over all processes")
    accumulate: Positive = Field(
        1, description="parts that each process splits its images of a step into, one after the other, to save memory"
    )
    optimizer: OptimizerName = Field("sgd", description="optimizer; sgd has momentum 0.9")
    lr: float = Field(0.01, gt=0, description="learning rate after the warm-up, for lr_batch_size images")
    lr_batch_size: Positive | None = Field(
        None, description="batch size that lr is meant for; another batch_size scales it linearly; none: no scaling"
    )
    weight_decay: NonNegative = Field(1e-4, description="weight decay")
    backbone_lr: float | None = Field(
        None, ge=0, description="learning rate of the feature extractor below the pyramid, scaled like lr; none: lr"
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="factor of the learning rate from a stage of the feature extractor to the one below",
    )
    warmup_steps: int = Field(
        1000, ge=0, description="steps of linear warm-up from lr / 1000, unless solver.warmup_epochs sets them"
    )
    warmup_epochs: Epochs | None = Field(None, description="epochs of warm-up; none: solver.warmup_steps counts")
    schedule: ScheduleName = Field("step", description="decay of the learning rate")
    milestones: tuple[Milestone, ...] = Field(
        (60_000, 80_000),
        description="steps, or shares of the run below 1, at which schedule=step divides the learning rate by 10",
    )
    clip_norm: NonNegative = Field(0.0, description="largest gradient norm; 0: no clipping")
    precision: PrecisionOrAuto = Field(
        "fp32",
        description="precision of the forward pass: bf16 and fp16 use autocast, fp16 with a scaled loss; "
        "auto: bf16 or fp16 on a GPU, whichever it has, fp32 on a CPU",
    )
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the EMA weights, which are then evaluated; 0: no EMA")
    sync_batch_norm: bool = Field(
        default=True, description="share the batch statistics of norms that train among all processes"
    )
    compile: bool = Field(default=False, description="compile backbone and mask head with torch.compile")
    eval_every: int = Field(
        0, ge=0, description="steps between evaluations on data.val, unless solver.eval_epochs sets them; 0: never"
    )
    eval_epochs: Epochs | None = Field(
        None, description="epochs between evaluations on data.val; none: solver.eval_every counts"
    )
    patience: int = Field(
        0, ge=0, description="evaluations in a row without a better mask AP after which training stops; 0: never"
    )
    keep_checkpoints: Positive = Field(2, description="newest checkpoints to keep, beside the best one")
    checkpoint_every: Positive = Field(1000, description="steps between checkpoints; the last step always saves")
    log_every: Positive = Field(20, description="steps between rows of metrics.jsonl")

    @property
    def evaluates(self) -> bool:
        """Return whether there are evaluations during training."""
        return bool(self.eval_every if self.eval_epochs is None else self.eval_epochs)

    @model_validator(mode="after")
    def _parts_fit(self) -> SolverConfig:
        if self.patience and not self.evaluates:
            raise ValueError(
                "solver.patience counts evaluations: set solver.eval_epochs or solver.eval_every, or solver.patience=0"
            )
        if self.min_steps and self.epochs is None:
            raise ValueError(
                "solver.min_steps is for a run whose length is in epochs: set solver.epochs, or solver.min_steps=0"
            )
        return self
