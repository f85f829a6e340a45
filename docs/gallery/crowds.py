"""Make docs/gallery/worms.jpg: crossing worms as Mask R-CNN and the recommended recipe find them.

Run: `python -m benchmarks crowds worms -o out/crowds`, then `python docs/gallery/crowds.py out/crowds worms`.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import read_coco, segmentation_rle
from bcnet_core.evaluation.results import from_json
from bcnet_core.files.images import read_listed
from bcnet_core.visualization.drawing import instance_color

HERE = Path(__file__).parent
COLUMNS = {"torchvision_ours": "Mask R-CNN (torchvision)", "ours": "bcnet: own_light"}
SCORE, HIT = 0.4, 0.5
"""Least score of a drawn detection, and mask IoU from which it has the color of a true instance."""
SIDE, ZOOM, GAP, CAPTION = 150, 2, 6, 26
"""Side of a window in pixels of the photo, its magnification, and the margins in pixels of the picture."""
STRAY = (120, 120, 120)
Pixels = NDArray[np.uint8]


def find_crowd(rles: list[masks.RLE], height: int, width: int) -> tuple[tuple[int, int], float]:
    """Return the corner of the window with the largest share of pixels in two masks or more, and that share."""
    depth = np.sum([masks.decode(rle) for rle in rles], axis=0, dtype=np.float32)
    crossing = cv2.boxFilter((depth > 1).astype(np.float32), -1, (SIDE, SIDE), borderType=cv2.BORDER_CONSTANT)
    half = SIDE // 2
    inner = crossing[half : height - half, half : width - half]
    y, x = np.unravel_index(int(inner.argmax()), inner.shape)
    return (int(x), int(y)), float(inner.max())


def draw(photo: Pixels, shapes: list[tuple[masks.RLE, tuple[int, int, int]]], corner: tuple[int, int]) -> Pixels:
    """Draw a window of a photo with its masks, outlined."""
    x, y = corner
    window = np.s_[y : y + SIDE, x : x + SIDE]
    picture = cv2.resize(photo[window], None, fx=ZOOM, fy=ZOOM, interpolation=cv2.INTER_CUBIC)
    for rle, color in shapes:
        mask = cv2.resize(masks.decode(rle)[window].astype(np.uint8), None, fx=ZOOM, fy=ZOOM, interpolation=0)
        inside = mask > 0
        picture[inside] = (0.6 * picture[inside] + 0.4 * np.array(color)).astype(np.uint8)
        outlines, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, color, 1, cv2.LINE_AA)
    return picture


def colored(found: list[dict], true: list[masks.RLE]) -> list[tuple[masks.RLE, tuple[int, int, int]]]:
    """Give each detection, best first, the color of the true instance that it hits first; others are gray."""
    left, shapes = set(range(len(true))), []
    for one in sorted(found, key=lambda one: -one["score"]):
        overlaps = {index: masks.iou(one["segmentation"], true[index]) for index in left}
        best = max(overlaps, key=overlaps.__getitem__, default=None)
        if best is not None and overlaps[best] >= HIT:
            left.remove(best)
            shapes.append((one["segmentation"], instance_color(best)))
        else:
            shapes.append((one["segmentation"], STRAY))
    return shapes


def main() -> None:
    """Draw the photos with the most crossing worms, one in a row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("study", type=Path)
    parser.add_argument("root", type=Path)
    parser.add_argument("--rows", type=int, default=4)
    words = parser.parse_args()
    coco = read_coco(words.root / "annotations" / "instances_val2017.json")
    grouped = coco.annotations_by_image()
    folder = words.study / "detections" / words.root.name
    found = {name: list(map(from_json, json.loads((folder / f"{name}-0.json").read_text()))) for name in COLUMNS}
    rows = []
    for image in coco.images:
        true = [segmentation_rle(one, image) for one in grouped[image["id"]]]
        corner, crossing = find_crowd(true, image["height"], image["width"])
        photo = read_listed(words.root / "val2017", image)
        parts = [draw(photo, [], corner), draw(photo, [(rle, instance_color(i)) for i, rle in enumerate(true)], corner)]
        for name in COLUMNS:
            own = [one for one in found[name] if one["image_id"] == image["id"] and one["score"] >= SCORE]
            parts.append(draw(photo, colored(own, true), corner))
        rows.append((crossing, parts))
    rows.sort(key=lambda row: -row[0])
    chosen = [parts for _, parts in rows[: words.rows]]
    titles = ["photo", "truth", *COLUMNS.values()]
    cell = SIDE * ZOOM + GAP
    picture = np.full((CAPTION + cell * len(chosen), cell * len(titles), 3), 255, np.uint8)
    for column, title in enumerate(titles):
        cv2.putText(picture, title, (column * cell + 4, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
        for row, parts in enumerate(chosen):
            y, x = CAPTION + row * cell, column * cell
            picture[y : y + SIDE * ZOOM, x : x + SIDE * ZOOM] = parts[column]
    cv2.imwrite(str(HERE / "worms.jpg"), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
