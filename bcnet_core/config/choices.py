"""The named choices of recipes and options, each defined once.

This module imports nothing heavy, so that the command line can build its options from it.
"""

from __future__ import annotations

from typing import Literal

Backend = Literal["torchvision", "detectron2"]
"""Library that trains and runs a model."""

OccluderSource = Literal["auto", "derive", "file"]
DetectorName = Literal["fcos", "faster_rcnn"]
BackboneName = str
"""One of `BACKBONES`, or timm/NAME."""
BACKBONES = ("tiny", "r18", "r50", "r101", "x101")
TIMM = "timm/"
"""Prefix of timm's names, in backbones as in sources of weights."""
BackboneStyle = Literal["torchvision", "caffe"]
Geometry = Literal["exact", "torchvision"]
BoxHead = Literal["linear", "conv"]
BoxKind = Literal["auto", "visible", "amodal"]
MaskSize = Literal[28, 56, 112]
"""Side of the maps that the mask head predicts, in cells."""
MaskSizeOrAuto = Literal[MaskSize, "auto"]
NMS = Literal["box", "soft", "mask"]
MaskProposals = Literal["decoded", "jittered", "official"]
OccluderSampling = Literal["balanced", "nonempty", "official"]
Normalizer = Literal["floored", "official"]
GIoU = Literal["exact", "official"]
OptimizerName = Literal["sgd", "adamw"]
ScheduleName = Literal["step", "cosine"]
Precision = Literal["fp32", "bf16", "fp16"]
PrecisionOrAuto = Literal[Precision, "auto"]

Measure = Literal["iou", "min", "mask"]
"""Occlusion rate of an instance: box IoU, box overlap by the smaller box, or neighbors' masks in its box."""
Pairs = Literal["any", "all"]
"""Images of an occluded split: those with any occluded instance, or with all instances occluded."""
RegionFormat = Literal["polygon", "rle"]
"""Storage of occluder regions in annotation files."""
ExportFormat = Literal["torchscript", "onnx"]
LayerChoice = Literal["both", "occludee", "occluder"]
"""Layers that are drawn."""
PictureFormat = Literal["jpg", "png", "svg"]
Scorer = Literal["faster-coco-eval", "pycocotools"]
"""Library that computes AP; both give the same numbers."""
Judgement = Literal["iou", "ap"]
"""Measure by which images are ranked from worst to best."""
