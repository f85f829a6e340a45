"""COCO files as data sets of detectron2, with the occluder regions that they may carry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from bcnet_core.annotations.coco import CocoFile, Record, category_names, read_coco
from bcnet_core.config.schema import DatasetConfig
from bcnet_core.errors import usage_error
from bcnet_core.files.images import image_path


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


def registered_categories(name: str, *, classes: int) -> list[Record]:
    """The categories of a registered data set, in its label order; numbers where it has no names.

    Args:
        name: of the data set.
        classes: how many there are.

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
    """Where the files of a registered COCO set are, None where it does not say."""
    metadata = MetadataCatalog.get(name)
    annotations, images = metadata.get("json_file"), metadata.get("image_root")
    if annotations is None or images is None:
        return None
    return DatasetConfig(annotations=Path(annotations).resolve(), images=Path(images).resolve())


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
