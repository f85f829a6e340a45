"""Turn instance masks in PNG files into one COCO json: `python masks.py PHOTOS MASKS OUT.json class0 class1 ...`.

MASKS holds a file NAME.png for each photo NAME.jpg (or another image), of the same size and with one channel. A pixel
of it is 0, which is background, or 1000 * class + instance: 1, 2, 3 ... are instances of class 0, 1001, 1002 ... of
class 1. Save it with 16 bits: 8 end at 255, within class 0. Instance numbers may start anew in each photo.
"""

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image
from pycocotools import mask

PHOTOS = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def stop(why: str, code: int = 3) -> NoReturn:
    """Say why, and end with the exit code: 2 is a wrong command line, 3 are wrong files."""
    sys.stderr.write(f"{why}\n")
    sys.exit(code)


def list_photos(folder: Path) -> list[Path]:
    """All photos of a folder, whatever else it holds."""
    photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTOS) if folder.is_dir() else []
    if not photos:
        stop(f"{folder} is not a folder with photos")
    if len({photo.stem for photo in photos}) < len(photos):
        stop(f"{folder} holds two photos whose names differ in the suffix alone: both would have the same mask")
    return photos


def read_mask(path: Path, classes: int) -> np.ndarray[Any, Any]:
    """The numbers in a mask file, which fit the number of classes."""
    if not path.is_file():
        stop(f"{path} is missing: each photo needs a mask of its name")
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except OSError as error:
        stop(f"{path} cannot be read: {error}")
    if values.ndim != 2:
        stop(f"{path} has {values.shape[2]} channels: a mask has one, whose pixels are 1000 * class + instance")
    if values.max() // 1000 >= classes:
        stop(f"{path} holds {values.max()}, class {values.max() // 1000} from 0, but {classes} class names are given")
    return values


def main(photos: str, masks: str, output: str, *classes: str) -> None:
    """Write OUT.json, whose categories are numbered from 1 and whose masks are the very pixels, as RLE."""
    if Path(output).exists():
        stop(f"{output} exists already: remove it or name another file")
    images, annotations = [], []
    for number, photo in enumerate(list_photos(Path(photos)), start=1):
        values = read_mask(Path(masks) / f"{photo.stem}.png", len(classes))
        height, width = values.shape
        images.append({"id": number, "file_name": photo.name, "height": height, "width": width})
        for value in np.unique(values[values > 0]).tolist():
            rle = mask.encode(np.asfortranarray(values == value, dtype=np.uint8))
            about = {"id": len(annotations) + 1, "image_id": number, "category_id": value // 1000 + 1, "iscrowd": 0}
            shape = {"bbox": mask.toBbox(rle).tolist(), "area": int(mask.area(rle))}
            annotations.append({**about, **shape, "segmentation": {**rle, "counts": rle["counts"].decode()}})
    if not annotations:
        stop(f"the masks in {masks} hold no instance: all pixels are 0")
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    try:
        Path(output).write_text(json.dumps(coco), encoding="utf-8")
    except OSError as error:
        Path(output).unlink(missing_ok=True)
        stop(f"{output} cannot be written: {error}")
    sys.stdout.write(f"{output}: {len(images)} photos, {len(annotations)} instances, {len(classes)} classes\n")


if __name__ == "__main__":
    main(*sys.argv[1:]) if len(sys.argv) > 4 else stop(f"{__doc__}", code=2)
