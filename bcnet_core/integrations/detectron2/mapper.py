"""From detectron2's dataset dicts to training samples that carry the occluder region of every instance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import detectron2.data.transforms as T  # noqa: N812  (as detectron2 itself calls it)
import numpy as np
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetMapper, detection_utils
from detectron2.structures import BoxMode

from bcnet_core import masks
from bcnet_core.annotations.coco import OCCLUDER_KEY, Record, segmentation_rle
from bcnet_core.annotations.occluder import occluder_regions
from bcnet_core.config.choices import OccluderSource
from bcnet_core.errors import data_error
from bcnet_core.integrations.detectron2.cropped_masks import CroppedMasks


class BilayerDatasetMapper(DatasetMapper):
    """detectron2's mapper; in training the instances get `gt_masks` and `gt_occluders`, both `CroppedMasks`.

    Segmentations may be polygons, RLEs (compressed or not) or (H, W) arrays. An occluder region is read from the
    annotation's `bg_object_segmentation` (any of these, too), or derived from the masks of all annotations of the
    image, before it is transformed like everything else.

    Args:
        is_train: whether instances are wanted.
        occluders: "derive" the regions, read them from the "file", or "auto": read where there are any, derive others.
        settings: of detectron2's `DatasetMapper`.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,  # noqa: FBT001  (detectron2's signature)
        *,
        occluders: OccluderSource = "auto",
        **settings: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(is_train, **{**settings, "use_instance_mask": True})
        self.occluders = occluders

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002
        """The arguments that a yacs config stands for; `INPUT.SCALE_JITTER` takes the place of its sizes."""
        settings: dict[str, Any] = super().from_config(cfg, is_train)
        if is_train:
            settings["augmentations"] = _augmentations(cfg, settings["augmentations"])
            settings["recompute_boxes"] = settings["recompute_boxes"] or bool(cfg.INPUT.SCALE_JITTER)
        return {**settings, "occluders": cfg.INPUT.OCCLUDERS}

    def _transform_annotations(self, dataset_dict: Record, transforms: Any, image_shape: tuple[int, int]) -> None:  # noqa: ANN401
        annotations: list[Record] = dataset_dict.pop("annotations")
        kept = [index for index, one in enumerate(annotations) if _is_target(one)]
        regions = self._regions(annotations, dataset_dict)
        transformed = [self._transformed(annotations[index], transforms, image_shape) for index in kept]
        around = [
            {**annotations[index], "segmentation": regions[index]} if regions[index] is not None else None
            for index in kept
        ]
        occluders = [None if one is None else self._transformed(one, transforms, image_shape) for one in around]
        segmentations = [one.pop("segmentation") for one in transformed]
        instances = detection_utils.annotations_to_instances(transformed, image_shape)
        instances.gt_masks = CroppedMasks.from_segmentations(segmentations, *image_shape)
        instances.gt_occluders = CroppedMasks.from_segmentations(
            [None if one is None else one["segmentation"] for one in occluders], *image_shape
        )
        if self.recompute_boxes:
            instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        dataset_dict["instances"] = detection_utils.filter_empty_instances(instances)

    def _transformed(self, annotation: Record, transforms: Any, image_shape: tuple[int, int]) -> Record:  # noqa: ANN401
        changed = {**annotation, "segmentation": _for_detectron2(annotation["segmentation"])}
        if not self.use_keypoint:
            changed.pop("keypoints", None)
        moved: Record = detection_utils.transform_instance_annotations(
            changed, transforms, image_shape, keypoint_hflip_indices=self.keypoint_hflip_indices
        )
        return moved

    def _regions(self, annotations: Sequence[Record], dataset_dict: Record) -> list[masks.RLE | None]:
        """The occluder region of each annotation, in the frame of the stored image."""
        image = {"id": dataset_dict.get("image_id"), "height": dataset_dict["height"], "width": dataset_dict["width"]}
        records = [
            {
                **one,
                "id": one.get("id", index),
                "bbox": list(BoxMode.convert(one["bbox"], one["bbox_mode"], BoxMode.XYWH_ABS)),
                **{
                    key: _for_json(one[key])
                    for key in ("segmentation", OCCLUDER_KEY)
                    if isinstance(one.get(key), np.ndarray | list)
                },
            }
            for index, one in enumerate(annotations)
        ]
        if self.occluders == "file":
            missing = sum(_is_target(one) and OCCLUDER_KEY not in one for one in annotations)
            if missing:
                raise data_error(
                    f"`{dataset_dict['file_name']}`: {missing} of its annotations have no `{OCCLUDER_KEY}`",
                    "add it: bcnet annotate, or derive it on the fly: INPUT.OCCLUDERS auto",
                )
        rles = [segmentation_rle(one, image) for one in records]
        return occluder_regions(records, rles, image, source=self.occluders)


def _augmentations(cfg: CfgNode, built: list[Any]) -> list[Any]:
    """detectron2's augmentations, with our flip and our large-scale jitter."""
    others = [one for one in built if not isinstance(one, T.RandomFlip)]
    flips = [one for one in built if isinstance(one, T.RandomFlip)]
    if flips and cfg.INPUT.RANDOM_FLIP == "horizontal":
        flips = [T.RandomFlip(prob=cfg.INPUT.FLIP_PROBABILITY)] if cfg.INPUT.FLIP_PROBABILITY else []
    if cfg.INPUT.SCALE_JITTER:
        least, most = cfg.INPUT.SCALE_JITTER
        side = cfg.INPUT.MAX_SIZE_TRAIN
        others = [one for one in others if not isinstance(one, T.ResizeShortestEdge)]
        others += [T.ResizeScale(least, most, side, side), T.FixedSizeCrop((side, side), pad=False)]
    return [*others, *flips]


def _is_target(annotation: Record) -> bool:
    """Whether an annotation is an instance to learn from: no crowd, and segmented."""
    segmentation = annotation.get("segmentation")
    return not annotation.get("iscrowd", 0) and segmentation is not None and len(segmentation) > 0


def _for_detectron2(segmentation: Any) -> Any:  # noqa: ANN401  (as it stands in a dataset dict)
    """Polygons as they are; everything else as a compressed RLE, which detectron2's transforms take."""
    if isinstance(segmentation, np.ndarray):
        return masks.encode(segmentation.astype(bool))
    if isinstance(segmentation, dict):
        return masks.from_segmentation(segmentation, *segmentation["size"]) or segmentation
    return segmentation


def _for_json(segmentation: Any) -> Any:  # noqa: ANN401
    """A segmentation as a COCO file would have it."""
    if isinstance(segmentation, np.ndarray):
        return masks.encode(segmentation.astype(bool))
    return [np.asarray(polygon).ravel().tolist() for polygon in segmentation]
