"""A composed scene: a picture, its objects in their true layer order, and their COCO records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import OCCLUDER_KEY, Record
from bcnet_core.annotations.occluder import derive_occluders

Image = NDArray[np.uint8]
Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Window = tuple[slice, slice]
"""Rows and columns of a part of an image."""


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene of H x W pixels.

    Attributes:
        label: index into the scene's class names.
        layer: 0 at the bottom; where two objects overlap, the higher layer is visible.
        amodal: (H, W) bool, the whole object inside the image, hidden parts included.
        visible: (H, W) bool, its visible part.
        source: id of the annotation that it was cut along; None for a drawn object.
    """

    label: int
    layer: int
    amodal: Mask
    visible: Mask
    source: int | None = None

    @property
    def occlusion_rate(self) -> float:
        """The hidden share of the amodal area, in [0, 1)."""
        return 1.0 - float(np.count_nonzero(self.visible) / np.count_nonzero(self.amodal))


@dataclass(frozen=True)
class Scene:
    """A picture and all objects in it.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        objects: objects from the bottom layer to the top one; none is completely hidden.
    """

    image: Image
    objects: tuple[SceneObject, ...]


def annotate_scene(scene: Scene, categories: list[Record], *, image_id: int) -> list[Record]:
    """Return the annotation records of a scene, bottom layer first, without the `id`.

    Boxes and areas describe the visible masks. Occluder regions are those of `derive_occluders` on the exact visible
    masks, [] where there is none.
    """
    visible = [masks.encode(item.visible) for item in scene.objects]
    boxes = [{"bbox": masks.bounding_box(rle).tolist()} for rle in visible]
    occluders = derive_occluders(boxes, visible, *scene.image.shape[:2])
    return [
        {
            "image_id": image_id,
            "category_id": categories[item.label]["id"],
            **box,
            "area": masks.area(rle),
            "iscrowd": 0,
            "segmentation": masks.to_json(rle),
            "amodal_segmentation": masks.to_json(masks.encode(item.amodal)),
            OCCLUDER_KEY: [] if occluder is None else masks.to_json(occluder),
            "occlusion_rate": round(item.occlusion_rate, 6),
            "layer": item.layer,
            **({} if item.source is None else {"source_annotation_id": item.source}),
        }
        for item, rle, box, occluder in zip(scene.objects, visible, boxes, occluders, strict=True)
    ]
