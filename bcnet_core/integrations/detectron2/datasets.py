"""COCO files as data sets of detectron2, with the occluder regions that they may carry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from bcnet_core.annotations.coco import CocoFile, Record, category_names, read_coco


def register_bilayer_coco(
    name: str, annotations: str | Path, images: str | Path, *, categories: Sequence[Record] | None = None
) -> None:
    """Register a COCO file, plain or bilayer, as a data set of detectron2; a set of that name is replaced.

    Args:
        name: of the data set, for `DATASETS.TRAIN` and `DATASETS.TEST`.
        annotations: the json.
        images: the folder that its file names are relative to.
        categories: COCO categories in label order; None takes those of the file by their ids, as detectron2 does.

    Raises:
        BCNetError: if the file cannot be read, or is not COCO.
    """
    coco = read_coco(Path(annotations), need_annotations=False)
    order = list(categories) if categories is not None else sorted(coco.categories, key=lambda one: int(one["id"]))
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: dataset_dicts(coco, Path(images), order))
    MetadataCatalog.get(name).set(
        json_file=str(annotations),
        image_root=str(images),
        evaluator_type="coco",
        thing_classes=category_names(order),
        thing_dataset_id_to_contiguous_id={one["id"]: label for label, one in enumerate(order)},
    )


def dataset_dicts(coco: CocoFile, images: Path, categories: Sequence[Record]) -> list[Record]:
    """The images of a COCO file in detectron2's format; annotations keep all their keys.

    Args:
        coco: as it was read.
        images: the folder that its file names are relative to.
        categories: in label order.
    """
    labels = {category["id"]: label for label, category in enumerate(categories)}
    grouped = coco.annotations_by_image()
    return [
        {
            "file_name": str(images / image["file_name"]),
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
