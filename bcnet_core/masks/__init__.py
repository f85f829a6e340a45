"""Instance masks: run-length encodings and their algebra (no torch), pasting and cropping (torch)."""

from bcnet_core.masks.rle import (
    RLE,
    area,
    bounding_box,
    complement,
    decode,
    decode_window,
    difference,
    encode,
    fill_window,
    from_box,
    from_labels,
    from_polygons,
    from_segmentation,
    from_window,
    intersection,
    iou,
    ious,
    overlaps,
    runs,
    shifted,
    to_json,
    union,
)

__all__ = [
    "RLE", "area", "bounding_box", "complement", "decode", "decode_window", "difference", "encode", "fill_window",
    "from_box", "from_labels", "from_polygons", "from_segmentation", "from_window", "intersection", "iou", "ious",
    "overlaps", "runs", "shifted", "to_json", "union",
]  # fmt: skip
