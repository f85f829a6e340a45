"""Small data sets as annotation tools and publishers write them: a leaf and a fruit in each photo, the fruit in front.

Every function writes the files of one tool into a folder, under the names that docs/own-data.md uses, and returns the
number of instances that should come through.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bcnet_core import masks
from tests.importers.pictures import HEIGHT, SQUARES, WIDTH, make_coco, make_picture

NAMES = ("leaf", "fruit")
Content = dict[str, Any]


def write(path: Path, content: Any) -> None:
    """Write text or json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def save(path: Path, values: NDArray[Any]) -> None:
    """Write an image of labels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def outline(number: int) -> list[float]:
    """Return the whole outline of a square as a flat polygon."""
    x, y, side = SQUARES[number]
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def points(number: int) -> list[list[float]]:
    """Return the corners of a square."""
    flat = outline(number)
    return [flat[at : at + 2] for at in range(0, 8, 2)]


def labels() -> NDArray[np.uint8]:
    """Return the label image of a picture, (H, W) uint8: 1 where the leaf is seen, 2 where the fruit is."""
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, (x, y, side) in enumerate(SQUARES, start=1):
        values[y : y + side, x : x + side] = number
    return values


def seen(number: int) -> Content:
    """Return the visible mask of a square as a compressed RLE."""
    return masks.to_json(masks.encode(labels() == number + 1))


def runs(mask: NDArray[np.bool_]) -> Content:
    """Return a mask as an uncompressed RLE."""
    flat = np.concatenate([[0], mask.ravel(order="F").astype(int)])
    ends = np.concatenate([[0], np.flatnonzero(np.diff(flat)), [mask.size]])
    return {"size": [*mask.shape], "counts": np.diff(ends).tolist()}


def renamed(content: Content, rename: Callable[[str], str]) -> Content:
    """Return a COCO file whose images have other names."""
    images = [{**image, "file_name": rename(image["file_name"])} for image in content["images"]]
    return {**content, "images": images}


def cvat(folder: Path) -> int:
    """COCO 1.0 with images: polygons, and masks of the brush, which are flagged as crowds."""
    content = make_coco(folder / "cvat/images/default", 3)
    for annotation in content["annotations"]:
        annotation["attributes"] = {"occluded": False}
        if annotation["category_id"] == 2:
            annotation |= {"iscrowd": 1, "segmentation": runs(labels() == 2)}
    write(folder / "cvat/annotations/instances_default.json", content)
    return 6


def label_studio(folder: Path) -> int:
    """COCO with local storage: names are URLs of its server, ids count from 0, boxes have no `iscrowd`."""
    content = renamed(make_coco(folder / "photos", 3), lambda name: f"/data/local-files/?d=photos%2F{name}")
    for number, annotation in enumerate(content["annotations"]):
        del annotation["iscrowd"]
        annotation |= {"id": number, "ignore": 0}
    write(folder / "result.json", content)
    return 6


def roboflow(folder: Path) -> int:
    """COCO segmentation: a folder a split with `_annotations.coco.json` beside the photos, and an unused class 0."""
    for split, count in {"train": 3, "valid": 1}.items():
        content = make_coco(folder / "roboflow" / split, count, name=split + "_{}_jpg.rf.0a1b.jpg", seed=len(split))
        own = [{**category, "supercategory": "plants"} for category in content["categories"]]
        content["categories"] = [{"id": 0, "name": "plants", "supercategory": "none"}, *own]
        write(folder / "roboflow" / split / "_annotations.coco.json", content)
    return 8


def labelme(folder: Path) -> int:
    """A json file beside every photo; the fruit is a mask of the AI tool."""
    mask = io.BytesIO()
    Image.fromarray(labels() == 2).save(mask, "PNG")
    for number in range(3):
        make_picture(folder / f"labelme/{number}.jpg", number)
        shapes = [
            {"label": "leaf", "points": points(0), "group_id": None, "shape_type": "polygon", "flags": {}},
            {"label": "fruit", "points": [[0, 0], [WIDTH - 1, HEIGHT - 1]], "group_id": None, "shape_type": "mask",
             "flags": {}, "mask": base64.b64encode(mask.getvalue()).decode()},
        ]  # fmt: skip
        write(folder / f"labelme/{number}.json", labelme_file(f"{number}.jpg", shapes))
    return 6


def labelme_file(name: str, shapes: list[Content]) -> Content:
    """Return the file of one photo."""
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    return {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": None, **size}


def x_anylabeling(folder: Path) -> int:
    """labelme's form with more keys; rectangles have four corners."""
    for number in range(3):
        make_picture(folder / f"anylabeling/{number}.png", number)
        more = {"score": None, "group_id": None, "difficult": False, "attributes": {}, "flags": {}}
        shapes = [
            {"label": "leaf", "points": points(0), "shape_type": "polygon", **more},
            {"label": "fruit", "points": points(1), "shape_type": "rectangle", **more},
        ]
        write(folder / f"anylabeling/{number}.json", labelme_file(f"{number}.png", shapes))
    return 6


def via(folder: Path) -> int:
    """One project for all photos; the class is an option of a list, whose ids mean names."""
    entries = {}
    for number in range(3):
        make_picture(folder / f"via/{number}.jpg", number)
        regions = [
            {
                "shape_attributes": {
                    "name": "polygon",
                    "all_points_x": outline(square)[0::2],
                    "all_points_y": outline(square)[1::2],
                },
                "region_attributes": {"plant": str(square)},
            }
            for square in (0, 1)
        ]
        entry = {"filename": f"{number}.jpg", "size": 900, "regions": regions, "file_attributes": {}}
        entries[f"{number}.jpg900"] = entry
    plant = {"type": "dropdown", "description": "", "options": {"0": "leaf", "1": "fruit"}, "default_options": {}}
    project = {
        "_via_settings": {},
        "_via_img_metadata": entries,
        "_via_attributes": {"region": {"plant": plant}, "file": {}},
    }
    write(folder / "via/via_project.json", project)
    return 6


def yolo(folder: Path) -> int:
    """data.yaml, images and labels in one folder a split, coordinates from 0 to 1."""
    for split, count in {"train": 3, "val": 1}.items():
        for number in range(count):
            make_picture(folder / f"yolo/images/{split}/{number}.jpg", number + 10 * count)
            shares = ([value / (WIDTH, HEIGHT)[at % 2] for at, value in enumerate(outline(k))] for k in (0, 1))
            lines = (f"{k} " + " ".join(f"{value:.6f}" for value in line) for k, line in enumerate(shares))
            write(folder / f"yolo/labels/{split}/{number}.txt", "\n".join(lines) + "\n")
    write(folder / "yolo/data.yaml", "train: images/train\nval: images/val\nnames:\n  0: leaf\n  1: fruit\n")
    return 8


def cellpose(folder: Path) -> int:
    """Masks as `*_cp_masks.png` beside the photos."""
    for number in range(3):
        make_picture(folder / f"cellpose/{number}.tif", number)
        save(folder / f"cellpose/{number}_cp_masks.png", labels().astype(np.uint16))
    return 6


def label_images(folder: Path) -> int:
    """One image of labels a photo, of the same name, in a folder of its own, as skimage.io.imsave writes it."""
    for number in range(3):
        make_picture(folder / f"photos/{number}.png", number)
        save(folder / f"labels/{number}.tif", labels().astype(np.uint16))
    return 6


def cityscapes(folder: Path) -> int:
    """Values of 1000 * class + instance in `*_gtFine_instanceIds.png`; smaller values are no instances."""
    values = np.full((HEIGHT, WIDTH), 7, np.uint16)
    values[labels() == 1], values[labels() == 2] = 26000, 24000
    for split, count in {"train": 3, "val": 1}.items():
        for number in range(count):
            name = f"{split}/ulm/ulm_{number:06d}_000019"
            make_picture(folder / f"leftImg8bit/{name}_leftImg8bit.png", number + 10 * count)
            save(folder / f"gtFine/{name}_gtFine_instanceIds.png", values)
    return 8


def voc(folder: Path) -> int:
    """Palette images whose index is the instance, with a border of 255."""
    values = labels()
    values[0] = 255
    for number in range(3):
        make_picture(folder / f"VOC2012/JPEGImages/{number}.jpg", number)
        image = Image.fromarray(values)
        image.putpalette([(37 * at) % 256 for at in range(768)])
        path = folder / f"VOC2012/SegmentationObject/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return 6


def data_science_bowl(folder: Path) -> int:
    """A folder a photo, with one mask file an object."""
    for number in range(3):
        make_picture(folder / f"stage1_train/{number}a0b/images/{number}a0b.png", number)
        for label in (1, 2):
            save(folder / f"stage1_train/{number}a0b/masks/{label}f.png", (labels() == label).astype(np.uint8) * 255)
    return 6


def blender_proc(folder: Path) -> int:
    """bproc.writer.write_coco_annotations: uncompressed run lengths, names with their folder."""
    content = renamed(make_coco(folder / "coco_data/images", 3, name="{:06d}.jpg"), lambda name: f"images/{name}")
    for annotation in content["annotations"]:
        annotation["segmentation"] = runs(labels() == annotation["category_id"])
    write(folder / "coco_data/coco_annotations.json", content)
    return 6


def lvis(folder: Path) -> int:
    """No `file_name` and no `iscrowd`; the URLs of COCO's photos."""
    for split, count in {"train": 3, "val": 1}.items():
        content = make_coco(folder / f"coco/{split}2017", count, name="{:012d}.jpg", seed=10 * count)
        for image in content["images"]:
            image["coco_url"] = f"http://images.cocodataset.org/{split}2017/{image.pop('file_name')}"
        for annotation in content["annotations"]:
            del annotation["iscrowd"]
        write(folder / f"lvis/lvis_v1_{split}.json", content)
    return 8


def livecell(folder: Path) -> int:
    """Annotations are an object by id."""
    content = make_coco(folder / "images/livecell_train_val_images", 3, name="A172_{}.tif")
    content["annotations"] = {str(one["id"]): one for one in content["annotations"]}
    write(folder / "livecell_coco_train.json", content)
    return 6


def fiftyone(folder: Path) -> int:
    """COCODetectionDataset: data/ and labels.json."""
    write(folder / "fiftyone/labels.json", make_coco(folder / "fiftyone/data", 3))
    return 6


def azure(folder: Path) -> int:
    """Coordinates from 0 to 1, and URLs of its store."""
    content = make_coco(folder / "photos", 3)
    for image in content["images"]:
        image["coco_url"] = f"AmlDatastore://workspaceblobstore/{image['file_name']}"
    for annotation in content["annotations"]:
        flat = outline(annotation["category_id"] - 1)
        annotation["segmentation"] = [[value / (WIDTH, HEIGHT)[at % 2] for at, value in enumerate(flat)]]
        x, y, width, height = annotation["bbox"]
        annotation |= {"bbox": [x / WIDTH, y / HEIGHT, width / WIDTH, height / HEIGHT], "area": 0.1}
    write(folder / "azure.json", content)
    return 6


def supervision(folder: Path) -> int:
    """A polygon without its outer list, as supervision before 0.13 wrote it, and no area."""
    content = make_coco(folder / "photos", 3)
    for annotation in content["annotations"]:
        annotation["segmentation"] = outline(annotation["category_id"] - 1)
        del annotation["area"]
    write(folder / "all.json", content)
    return 6


def coco_with(folder: Path, keys: Callable[[int], Content], *, name: str = "{:06d}.png") -> Content:
    """Return a COCO file whose annotations have other masks."""
    content = make_coco(folder, 3, name=name)
    for annotation in content["annotations"]:
        annotation.update(keys(annotation["category_id"] - 1))
    return content


def kins(folder: Path) -> int:
    """Whole masks in `segmentation`, visible ones in `inmodal_seg`, ranks in clusters."""

    def keys(number: int) -> Content:
        return {"inmodal_seg": seen(number), "inmodal_bbox": [0, 0, 1, 1], "ico_id": 2 - number, "oco_id": 1}

    for split, place in {"train": "training", "test": "testing"}.items():
        content = coco_with(folder / f"kitti/{place}/image_2", keys, name=split + "{}.png")
        write(folder / f"kins/instances_{split}.json", content)
    return 12


def cocoa(folder: Path) -> int:
    """All regions of an image in one record, with the order of depth."""
    content = make_coco(folder / "train2014", 3, name="COCO_train2014_{:012d}.jpg")
    regions = [{"segmentation": outline(number), "name": name, "isStuff": 0} for number, name in enumerate(NAMES)]
    regions[0]["visible_mask"] = seen(0)
    records = [
        {"id": image["id"], "image_id": image["id"], "regions": regions, "depth_constraint": "2-1", "author": "me"}
        for image in content["images"]
    ]
    write(folder / "COCO_amodal_train2014.json", {"images": content["images"], "annotations": records})
    return 6


def d2sa(folder: Path) -> int:
    """Whole masks in `segmentation`, visible ones in `visible_mask`."""

    def keys(number: int) -> Content:
        hidden = {"invisible_mask": seen(0), "occlude_rate": 0.1} if number == 0 else {"occlude_rate": 0.0}
        return {"visible_mask": seen(number), **hidden}

    write(folder / "D2S_amodal_training_rot0.json", coco_with(folder / "images", keys))
    return 6


def sa_1b(folder: Path) -> int:
    """A json file beside every photo, without classes."""
    for number in range(3):
        make_picture(folder / f"sa_000000/sa_{number}.jpg", number)
        rows = [{"id": 50 + k, "segmentation": seen(k), "area": 9, "predicted_iou": 0.9} for k in (0, 1)]
        image = {"image_id": number, "width": WIDTH, "height": HEIGHT, "file_name": f"sa_{number}.jpg"}
        write(folder / f"sa_000000/sa_{number}.json", {"image": image, "annotations": rows})
    return 6


EXPORTS: dict[str, Callable[[Path], int]] = {
    "CVAT": cvat, "Label Studio": label_studio, "Roboflow": roboflow, "labelme": labelme,
    "VGG Image Annotator (VIA)": via, "X-AnyLabeling, AnyLabeling": x_anylabeling,
    "YOLO segmentation (Ultralytics, Roboflow)": yolo,
    "cellpose": cellpose, "scikit-image, Fiji, napari, QuPath": label_images, "Cityscapes": cityscapes,
    "PASCAL VOC": voc, "one mask file an object": data_science_bowl, "BlenderProc": blender_proc, "LVIS": lvis,
    "LIVECell": livecell, "FiftyOne": fiftyone, "Azure Machine Learning": azure, "any other COCO json": supervision,
    "KINS": kins, "COCOA": cocoa, "D2SA, COCOA-cls": d2sa, "SA-1B": sa_1b,
}  # fmt: skip
"""The tools of the page, and the function that writes their files."""
