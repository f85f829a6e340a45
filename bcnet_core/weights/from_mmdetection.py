"""Faster and Mask R-CNN of mmdetection 2 and 3.

They compute what bcnet's Faster R-CNN computes, with other names: anchors are not rounded and lie at the corners of
their cells, in the order of the ratios 1/2, 1 and 2; RoIAlign is aligned and samples adaptively; box deltas are divided
by (0.1, 0.1, 0.2, 0.2); features are flattened channel first; P6 is every second pixel of P5; classes are in the order
of COCO's ids, and the background is behind them, as in detectron2 (`configs/_base_/models/mask-rcnn_r50_fpn.py`,
`AnchorGenerator`, `DeltaXYWHBBoxCoder`, `ConvFCBBoxHead`, `FPN` of version 3.3).

Pixels and strides do not show in the tensors. The ResNets come from torchvision ("pytorch" style) or from Caffe2
("caffe" style: BGR, stride in the first 1x1 convolution); all ResNeXt-101 32x8d come from Caffe2. The text of the
config, which a checkpoint holds under `meta`, says which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from bcnet_core.errors import data_error
from bcnet_core.weights.foreign import BODY, COUNTER, Converted
from bcnet_core.weights.from_detectron2 import BOX_PREDICTOR, MASK_HEAD, convert_outputs

ORIGIN = "a Faster or Mask R-CNN of mmdetection"
HEADS = ("neck.", "rpn_head.", "roi_head.", "bbox_head.")
"""Beginnings of names that only mmdetection has."""
PLACES = {
    r"backbone\.((?:layer[1-4]\.\d+\.)?(?:conv[123]|bn[123]|downsample\.[01])\.\w+)": BODY + r"\1",
    r"neck\.lateral_convs\.([0-3])\.conv\.(\w+)": r"backbone.fpn.inner_blocks.\1.0.\2",
    r"neck\.fpn_convs\.([0-3])\.conv\.(\w+)": r"backbone.fpn.layer_blocks.\1.0.\2",
    r"rpn_head\.rpn_conv\.(\w+)": r"heads.rpn.head.conv.0.0.\1",
    r"rpn_head\.rpn_cls\.(\w+)": r"heads.rpn.head.cls_logits.\1",
    r"rpn_head\.rpn_reg\.(\w+)": r"heads.rpn.head.bbox_pred.\1",
    r"roi_head\.bbox_head\.shared_fcs\.0\.(\w+)": r"heads.roi_heads.box_head.fc6.\1",
    r"roi_head\.bbox_head\.shared_fcs\.1\.(\w+)": r"heads.roi_heads.box_head.fc7.\1",
    r"roi_head\.bbox_head\.fc_cls\.(\w+)": BOX_PREDICTOR + r"cls_score.\1",
    r"roi_head\.bbox_head\.fc_reg\.(\w+)": BOX_PREDICTOR + r"bbox_pred.\1",
    r"roi_head\.mask_head\.convs\.([0-3])\.conv\.(\w+)": MASK_HEAD + r"occludee.convs.\1.\2",
    r"roi_head\.mask_head\.upsample\.(\w+)": MASK_HEAD + r"occludee_mask.upsample.\1",
    r"roi_head\.mask_head\.conv_logits\.(\w+)": MASK_HEAD + r"occludee_mask.logits.\1",
}
"""Names in mmdetection, and in bcnet."""


def from_mmdetection(tensors: Mapping[str, Tensor], path: Path) -> Converted | None:
    """Convert a Faster or Mask R-CNN of mmdetection; see `read_meta` for its style.

    Raises:
        BCNetError: if it has layers that bcnet's does not have.
    """
    if not any(name.startswith(HEADS) for name in tensors):
        return None
    places = {name: _place(name) for name in tensors}
    unknown = [name for name, place in places.items() if place is None and not name.endswith(COUNTER)]
    if unknown:
        raise data_error(
            f"`{path}` is a detector of mmdetection that bcnet does not have: {len(unknown)} tensors are no part of "
            f"its Faster R-CNN, the first is `{unknown[0]}`",
            "bcnet takes Faster and Mask R-CNN of mmdetection 2 and 3 with ResNet-50, ResNet-101 or ResNeXt-101 32x8d, "
            "with plain convolutions, and without norms outside of the backbone",
        )
    found = Converted(ORIGIN, style="torchvision", detector="faster_rcnn")
    found.place_all(tensors, places.__getitem__)
    convert_outputs(found)
    return found


def _place(name: str) -> str | None:
    if name.endswith(COUNTER):
        return None
    return next((match.expand(new) for old, new in PLACES.items() if (match := re.fullmatch(old, name))), None)


def read_meta(found: Converted, content: object, path: Path) -> None:
    """Set the style and the class names of a detector of mmdetection by the `meta` of its file.

    Raises:
        BCNetError: if its backbone has the pixels of one style and the strides of the other.
    """
    if found.origin != ORIGIN:
        return
    meta = content.get("meta") if isinstance(content, dict) else None
    meta = meta if isinstance(meta, dict) else {}
    data = meta.get("dataset_meta")
    names = {**meta, **(data if isinstance(data, dict) else {})}
    classes = names.get("classes") or names.get("CLASSES")
    if isinstance(classes, list | tuple) and len(classes) == found.classes:
        found.class_names = list(map(str, classes))
    config = str(meta.get("cfg") or meta.get("config") or "")
    bgr = "to_rgb=False" in config if config else found.backbone == "x101"
    found.style = "caffe" if bgr else "torchvision"
    if not config:
        found.origin += f" (without its config: {'BGR' if bgr else 'RGB'} images and {found.style} style are assumed)"
    elif found.backbone != "x101" and ("style='caffe'" in config) != bgr:
        raise data_error(
            f"`{path}` is {ORIGIN} with {'BGR' if bgr else 'RGB'} images and strides of the other style, by its config",
            "bcnet has ResNets for RGB images with the stride in the 3x3, and for BGR with the stride in the first 1x1",
        )
