"""COCO data for detectron2: registered data sets, and a mapper that carries occluder regions and whole masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T  # noqa: N812  (as detectron2 itself calls it)
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog, detection_utils
from detectron2.structures import Boxes, BoxMode
from torch import Tensor

from bcnet_core import masks
from bcnet_core.annotations.amodal import enclosing_boxes, whole_masks
from bcnet_core.annotations.coco import (
    AMODAL_KEY,
    OCCLUDER_KEY,
    CocoFile,
    Record,
    category_names,
    in_id_order,
    read_coco,
    segmentation_rle,
)
from bcnet_core.annotations.instances import survey_instances
from bcnet_core.annotations.occluder import occluder_regions
from bcnet_core.config.choices import OccluderSource
from bcnet_core.config.data import DatasetConfig
from bcnet_core.config.schema import Recipe
from bcnet_core.errors import data_error, usage_error
from bcnet_core.files.images import image_path
from bcnet_core.files.json_files import write_json
from bcnet_core.integrations.detectron2.config import validated
from bcnet_core.integrations.detectron2.cropped_masks import CroppedMasks, input_rles
from bcnet_core.masks import RLE
from bcnet_core.masks.crops import crop_rles


def register_bilayer_coco(
    name: str,
    annotations: str | Path,
    images: str | Path,
    *,
    categories: Sequence[Record] | None = None,
    occluders: OccluderSource = "auto",
    reads_wholes: bool = False,
) -> None:
    """Register a COCO file, plain or bilayer, as a detectron2 data set; replaces a set of the same name.

    Args:
        name: name of the data set, for `DATASETS.TRAIN` and `DATASETS.TEST`.
        annotations: the COCO file; the set has the annotations that a training takes, see `survey_instances`.
        images: the folder that its file names are relative to.
        categories: COCO categories in label order; None sorts those of the file by id, as detectron2 does.
        occluders: the `INPUT.OCCLUDERS` of the config; unless it is "derive", unreadable occluder regions are faults.
        reads_wholes: whether the mapper reads whole masks, so that unreadable ones are faults.

    Raises:
        BCNetError: if the file cannot be read, or is not COCO.
    """
    coco = read_coco(Path(annotations), need_annotations=False, check_annotations=False)
    order = list(categories) if categories is not None else in_id_order(coco.categories)
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(
        name, lambda: dataset_dicts(coco, Path(images), order, occluders=occluders, reads_wholes=reads_wholes)
    )
    MetadataCatalog.get(name).set(
        json_file=str(annotations),
        image_root=str(images),
        evaluator_type="coco",
        thing_classes=category_names(order),
        thing_dataset_id_to_contiguous_id={one["id"]: label for label, one in enumerate(order)},
    )


def dataset_dicts(
    coco: CocoFile,
    images: Path,
    categories: Sequence[Record],
    *,
    occluders: OccluderSource = "auto",
    reads_wholes: bool = False,
) -> list[Record]:
    """Convert a COCO file to detectron2's dataset dicts, with labels in the order of `categories`.

    They have the annotations that `TrainingSet` takes with this source of occluders, with or without whole masks.
    """
    labels = {category["id"]: label for label, category in enumerate(categories)}
    survey = survey_instances(coco, reads_occluders=occluders != "derive", reads_wholes=reads_wholes)
    grouped = survey.coco.annotations_by_image()
    return [
        {
            "file_name": str(image_path(images, image["file_name"])),
            "image_id": image["id"],
            "height": image["height"],
            "width": image["width"],
            "annotations": [
                {**one, "bbox_mode": BoxMode.XYWH_ABS, "category_id": labels[one["category_id"]]}
                for one in grouped[image["id"]]
            ],
        }
        for image in coco.images
    ]


def write_truth(path: Path, coco: CocoFile, categories: Sequence[Record]) -> None:
    """Write annotations for detectron2's `COCOEvaluator`, which needs every category of the detector in the file."""
    write_json(path, {**coco.content, "categories": list(categories)})


def registered_categories(name: str, *, classes: int) -> list[Record]:
    """Return the categories of a registered data set in label order; without names, `classes` numbers.

    Raises:
        BCNetError: if there is no such data set.
    """
    if name not in DatasetCatalog:
        raise usage_error(
            f"detectron2 knows no data set `{name}`",
            "say where COCO data is: --data-root DIR, or register it: register_bilayer_coco of "
            "bcnet_core.integrations.detectron2",
        )
    metadata = MetadataCatalog.get(name)
    ids = {label: number for number, label in metadata.get("thing_dataset_id_to_contiguous_id", {}).items()}
    names = metadata.get("thing_classes", [str(label) for label in range(classes)])
    return [{"id": ids.get(label, label), "name": text} for label, text in enumerate(names)]


def registered_paths(name: str) -> DatasetConfig | None:
    """Return the files of a registered COCO set, None where its metadata names none."""
    metadata = MetadataCatalog.get(name)
    annotations, images = metadata.get("json_file"), metadata.get("image_root")
    if annotations is None or images is None:
        return None
    return DatasetConfig(annotations=Path(annotations).resolve(), images=Path(images).resolve())


def recipe_of_data(cfg: CfgNode) -> Recipe:
    """Return a recipe with the settings of a config that decide what is read of annotations, and no others.

    Raises:
        BCNetError: if `INPUT.OCCLUDERS` or `INPUT.BOXES` is out of its range.
    """
    data = {"occluders": cfg.INPUT.OCCLUDERS, "boxes": cfg.INPUT.BOXES}
    return validated(Recipe, {"data": data, "model": {"amodal": cfg.MODEL.BCNET.AMODAL}}, "as a recipe")


class BilayerDatasetMapper(DatasetMapper):
    """detectron2's mapper; in training the instances get `gt_masks` and `gt_occluders`, both `CroppedMasks`.

    Segmentations may be polygons, RLEs (compressed or not) or (H, W) arrays. An occluder region is read from the
    annotation's `bg_object_segmentation` (any of these, too), or derived from the masks of all annotations of the
    image, before it is transformed like everything else. So are whole masks, from `amodal_segmentation`; they become
    `gt_wholes`, empty where they are unknown.

    Args:
        is_train: whether instances are wanted.
        occluders: source of the occluder regions: "derive" them, read them from the "file", or "auto".
        amodal: whether whole masks are read.
        amodal_boxes: whether boxes enclose the whole masks, where these are known.
        settings: settings of detectron2's `DatasetMapper`.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,  # noqa: FBT001  (detectron2's signature)
        *,
        occluders: OccluderSource = "auto",
        amodal: bool = False,
        amodal_boxes: bool = False,
        **settings: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(is_train, **{**settings, "use_instance_mask": True})
        self.occluders, self.amodal, self.amodal_boxes = occluders, amodal or amodal_boxes, amodal_boxes

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002
        """Return the arguments for a yacs config; `INPUT.SCALE_JITTER` takes the place of its sizes.

        Raises:
            BCNetError: if `INPUT.OCCLUDERS` or `INPUT.BOXES` is out of its range.
        """
        settings: dict[str, Any] = super().from_config(cfg, is_train)
        if is_train:
            settings["augmentations"] = _augmentations(cfg, settings["augmentations"])
            settings["recompute_boxes"] = settings["recompute_boxes"] or bool(cfg.INPUT.SCALE_JITTER)
        recipe = recipe_of_data(cfg)
        return {
            **settings,
            "occluders": recipe.data.occluders,
            "amodal": recipe.model.amodal,
            "amodal_boxes": recipe.amodal_boxes,
        }

    def _transform_annotations(self, dataset_dict: Record, transforms: Any, image_shape: tuple[int, int]) -> None:  # noqa: ANN401
        image = {"id": dataset_dict.get("image_id"), "height": dataset_dict["height"], "width": dataset_dict["width"]}
        records = [_coco_record(one, index) for index, one in enumerate(dataset_dict.pop("annotations"))]
        rles = [segmentation_rle(one, image) for one in records]
        targets = [i for i, one in enumerate(records) if rles[i] is not None and not one.get("iscrowd", 0)]
        missing = sum(OCCLUDER_KEY not in records[index] for index in targets)
        if self.occluders == "file" and missing:
            raise data_error(
                f"`{dataset_dict['file_name']}`: {missing} of its annotations have no `{OCCLUDER_KEY}`",
                "add it: bcnet annotate, or derive it on the fly: INPUT.OCCLUDERS auto",
            )
        wholes: list[RLE | None] = whole_masks(records, rles, image) if self.amodal else [None] * len(rles)
        regions = occluder_regions(records, rles, image, source=self.occluders, wholes=wholes)
        for record, box in zip(records, enclosing_boxes(records, wholes, amodal=self.amodal_boxes), strict=True):
            record["bbox"] = box

        def transform(index: int, segmentation: Any) -> Any:  # noqa: ANN401
            annotation = {**records[index], "segmentation": segmentation}
            if not self.use_keypoint:
                annotation.pop("keypoints", None)
            return detection_utils.transform_instance_annotations(
                annotation, transforms, image_shape, keypoint_hflip_indices=self.keypoint_hflip_indices
            )

        def moved(given: Sequence[Any]) -> list[RLE]:
            parts = [None if given[i] is None else transform(i, given[i])["segmentation"] for i in targets]
            return input_rles(parts, *image_shape)

        transformed = [transform(index, _as_given(records[index], "segmentation", rles[index])) for index in targets]
        visible = input_rles([one.pop("segmentation") for one in transformed], *image_shape)
        instances = detection_utils.annotations_to_instances(transformed, image_shape)
        instances.gt_masks = CroppedMasks(crop_rles(visible))
        instances.gt_occluders = CroppedMasks(crop_rles(moved(regions)))
        if self.amodal:
            given = [_as_given(one, AMODAL_KEY, rle) for one, rle in zip(records, wholes, strict=True)]
            pairs = zip(targets, moved(given), visible, strict=True)
            united = [None if wholes[i] is None else masks.union([whole, seen]) for i, whole, seen in pairs]
            instances.gt_wholes = CroppedMasks(crop_rles(united))
        if self.recompute_boxes:
            boxes: Tensor = instances.gt_masks.get_bounding_boxes().tensor
            if self.amodal_boxes:
                around = instances.gt_wholes
                boxes = torch.where(around.nonempty()[:, None], around.get_bounding_boxes().tensor, boxes)
            instances.gt_boxes = Boxes(boxes)
        dataset_dict["instances"] = detection_utils.filter_empty_instances(instances)


def _as_given(record: Record, key: str, rle: RLE | None) -> Any:  # noqa: ANN401  (detectron2 takes either)
    """Return the polygons of a mask where its record has some, as they move without a loss, or else its RLE."""
    return record[key] if rle is not None and isinstance(record.get(key), list) else rle


def _coco_record(annotation: Record, index: int) -> Record:
    """Convert an annotation of a dataset dict, whose segmentations may be arrays, to what a COCO file holds."""
    box = list(BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS))
    record = {"id": index, **annotation, "bbox": box, "bbox_mode": BoxMode.XYWH_ABS}
    for key in ("segmentation", OCCLUDER_KEY, AMODAL_KEY):
        given = annotation.get(key)
        if isinstance(given, np.ndarray):
            record[key] = masks.encode(given.astype(bool))
        elif isinstance(given, list):
            record[key] = [np.asarray(polygon).ravel().tolist() for polygon in given]
    return record


def _augmentations(cfg: CfgNode, built: list[Any]) -> list[Any]:
    """Replace detectron2's flip and sizes by our flip and our large-scale jitter where the config asks for them."""
    flips = [one for one in built if isinstance(one, T.RandomFlip)]
    others = [one for one in built if one not in flips]
    if flips and cfg.INPUT.RANDOM_FLIP == "horizontal":
        flips = [T.RandomFlip(prob=cfg.INPUT.FLIP_PROBABILITY)] if cfg.INPUT.FLIP_PROBABILITY else []
    if cfg.INPUT.SCALE_JITTER:
        least, most = cfg.INPUT.SCALE_JITTER
        side = cfg.INPUT.MAX_SIZE_TRAIN
        others = [one for one in others if not isinstance(one, T.ResizeShortestEdge)]
        others += [T.ResizeScale(least, most, side, side), T.FixedSizeCrop((side, side), pad=False)]
    return [*others, *flips]
