"""Turn instance masks in PNG files into one COCO json: `python masks.py PHOTOS MASKS OUT.json class0 class1 ...`.

MASKS holds a file NAME.png for each photo NAME.jpg (or .png), of the same size. A pixel of it is 0, which is
background, or 1000 * class + instance: 1, 2, 3 ... are instances of class 0, 1001, 1002 ... of class 1.
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask


def main(photos: str, masks: str, output: str, *classes: str) -> None:
    """Write OUT.json, whose categories are numbered from 1 and whose masks are the very pixels, as RLE."""
    images, annotations = [], []
    for number, photo in enumerate(sorted(Path(photos).iterdir()), start=1):
        values = np.asarray(Image.open(Path(masks) / f"{photo.stem}.png"))
        height, width = values.shape
        images.append({"id": number, "file_name": photo.name, "height": height, "width": width})
        for value in np.unique(values[values > 0]).tolist():
            rle = mask.encode(np.asfortranarray(values == value, dtype=np.uint8))
            about = {"id": len(annotations) + 1, "image_id": number, "category_id": value // 1000 + 1, "iscrowd": 0}
            shape = {"bbox": mask.toBbox(rle).tolist(), "area": int(mask.area(rle))}
            annotations.append({**about, **shape, "segmentation": {**rle, "counts": rle["counts"].decode()}})
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    Path(output).write_text(json.dumps(coco), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
