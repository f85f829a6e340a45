"""The section `data` of a recipe."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field, model_validator

from bcnet_core.config.choices import BoxKind, OccluderSource
from bcnet_core.config.numbers import Pixels, Positive, Share


class DatasetConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """One COCO data set; both paths are relative to the data root."""

    annotations: Path = Field(description="COCO json file, plain or bilayer")
    images: Path = Field(description="folder that the file names in the json are relative to")


class CopyPasteConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Objects of other training images that are pasted over this one."""

    probability: Share = Field(0.0, description="probability that objects are pasted over a training image; 0: never")
    objects: Positive = Field(3, description="most objects that are pasted over an image; they come from one image")
    overlap: tuple[float, float] = Field(
        (0.05, 0.5),
        description="share of an instance that a pasted object hides, drawn from this range; no other is hidden more",
    )
    scale: tuple[float, float] = Field(
        (0.7, 1.4), description="factor on the size of a pasted object relative to its image, drawn from this range"
    )

    @model_validator(mode="after")
    def _ranges_fit(self) -> CopyPasteConfig:
        least, most = self.overlap
        if not 0 <= least < most <= 0.9:
            raise ValueError(f"data.copy_paste.overlap is two rising shares from 0 to 0.9, not {least:g} and {most:g}")
        least, most = self.scale
        if not 0 < least <= most <= 10:
            raise ValueError(f"data.copy_paste.scale is two factors above 0 and at most 10, not {least:g} and {most:g}")
        return self


class DataConfig(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False):
    """Data sets, and how their images are prepared."""

    root: Path | None = Field(None, description="data root; usually given as --data-root or $BCNET_DATA")
    train: DatasetConfig = Field(
        DatasetConfig(annotations=Path("annotations/instances_train2017.json"), images=Path("train2017")),
        description="data set to train on",
    )
    val: DatasetConfig = Field(
        DatasetConfig(annotations=Path("annotations/instances_val2017.json"), images=Path("val2017")),
        description="data set to evaluate on",
    )
    test: DatasetConfig = Field(
        DatasetConfig(annotations=Path("annotations/image_info_test-dev2017.json"), images=Path("test2017")),
        description="image list of eval --test-dev",
    )
    occluders: OccluderSource = Field(
        "auto",
        description="occluder regions: derived from the masks, read from the file, or read where it has them (auto)",
    )
    boxes: BoxKind = Field(
        "auto",
        description="what the boxes of instances enclose: their visible part, or the whole object with its hidden part "
        "(amodal); auto: amodal where model.amodal trains whole masks",
    )
    allow_no_occluders: bool = Field(default=False, description="train although no instance has an occluder")
    min_size: Pixels = Field(600, description="shorter image side in pixels after resizing")
    max_size: Pixels = Field(900, description="limit of the longer image side in pixels after resizing")
    train_sizes: tuple[Pixels, ...] = Field(
        (), description="multi-scale training: shorter sides to draw from for each image; []: always min_size"
    )
    scale_jitter: tuple[float, float] | None = Field(
        None,
        description="large-scale jitter: the longer side is max_size times a random factor between these two, "
        "and a random window of at most max_size x max_size is cut out; none: no jitter",
    )
    flip: Share = Field(0.5, description="probability of a horizontal flip in training")
    flip_vertical: Share = Field(
        0.0, description="probability of a vertical flip in training, for images without an up, as from microscopes"
    )
    color_jitter: tuple[Share, Share, Share] | None = Field(
        None,
        description="color jitter: brightness, contrast and saturation are changed by random factors, at most by these "
        "shares, in a random order; none: no jitter",
    )
    copy_paste: CopyPasteConfig = Field(
        CopyPasteConfig(), description="objects of other training images that are pasted over this one"
    )
    group_aspects: bool = Field(
        default=True, description="batch wide images apart from others, for less padding; the order stays random"
    )
    workers: int = Field(
        2, ge=0, le=1024, description="data loader workers per training process; 0: load in the process itself"
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> DataConfig:
        for name, sizes in (("min_size", (self.min_size,)), ("train_sizes", self.train_sizes)):
            if any(size > self.max_size for size in sizes):
                raise ValueError(f"data.max_size ({self.max_size}) is smaller than data.{name} ({max(sizes)})")
        if self.scale_jitter is not None:
            least, most = self.scale_jitter
            if not 0 < least <= most <= 10:
                raise ValueError(f"data.scale_jitter is two factors above 0 and at most 10, not {least:g} and {most:g}")
            if self.train_sizes:
                raise ValueError("data.scale_jitter and data.train_sizes exclude each other: both choose the size")
        return self

    def locate(self, dataset: DatasetConfig) -> tuple[Path, Path]:
        """Return the annotation file and the image folder of a data set, under the data root."""
        root = self.root or Path()
        return root / dataset.annotations, root / dataset.images
