"""Instance masks: run-length encodings and their algebra (no torch), pasting and cropping (torch)."""

from bcnet_core.masks.rle import (
    RLE,
    area,
    bounding_box,
    boxes_touch,
    complement,
    decode,
    decode_window,
    encode,
    from_box,
    from_labels,
    from_polygons,
    from_segmentation,
    from_window,
    intersection,
    iou,
    ious,
    runs,
    to_json,
    union,
)

__all__ = [
    "RLE", "area", "bounding_box", "boxes_touch", "complement", "decode", "decode_window", "encode", "from_box",
    "from_labels", "from_polygons", "from_segmentation", "from_window", "intersection", "iou", "ious", "runs",
    "to_json", "union",
]  # fmt: skip
