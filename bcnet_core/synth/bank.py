"""The bank of a pasted set: objects cut out of a COCO set, and its images without their objects.

The annotated objects of a background are painted over, because no annotation of the new set would name them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import PIL.Image

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record, read_mask
from bcnet_core.files.images import image_path, read_image
from bcnet_core.files.json_files import read_json, write_json
from bcnet_core.files.workers import map_with_progress
from bcnet_core.reporting import Reporter
from bcnet_core.synth.plan import PasteSources
from bcnet_core.synth.scenes import Floats, Image, Mask, write_picture

BANK_INDEX = "index.json"
"""Name of the file that lists the objects and backgrounds of a bank."""

LARGEST = 0.7
"""Longest side of a pasted object, as a share of the shorter side of the scene."""

MARGIN = 4
"""Pixels of its surroundings that a cut-out object keeps, for the resize and the soft edge."""

ROOM = 1.25
"""Factor by which a background exceeds the scene, so that each use can show another part of it."""

MOST_ROOM = 4.0
"""Largest factor by which a background may be longer or wider than the scene."""

SEAM = 6
"""Pixels around an object that are painted over too, because annotators leave a rim."""


@dataclass(frozen=True)
class Cutout:
    """A whole object, cut from a photograph.

    Attributes:
        image: (h, w, 3) uint8, RGB; shows the surroundings of the object too.
        alpha: (h, w) float32 in [0, 1], the object's share of each pixel.
        label: index into the class names of the scene.
        source: id of the annotation that it was cut along.
    """

    image: Image
    alpha: Floats
    label: int
    source: int

    @property
    def mask(self) -> Mask:
        """The (h, w) pixels that count as the object."""
        return self.alpha >= 0.5


@dataclass(frozen=True)
class BankObject:
    """An object of a bank: its picture with alpha, its category, and the ids of its annotation and image.

    `label` is an index into the categories of the set; `scale` makes the object as large in a scene as it was in its
    own image.
    """

    file: str
    label: int
    source: int
    image: int
    scale: float


@dataclass(frozen=True)
class Bank:
    """The material of pasted scenes; the picture files are in `folder`."""

    folder: Path
    objects: tuple[BankObject, ...]
    backgrounds: tuple[str, ...]

    def cutout(self, number: int) -> Cutout:
        """Read the picture of an object."""
        found = self.objects[number]
        pixels = np.array(PIL.Image.open(self.folder / found.file))
        return Cutout(pixels[..., :3], pixels[..., 3].astype(np.float32) / 255, found.label, found.source)

    def background(self, number: int) -> Image:
        """Read a background, (H, W, 3) uint8, RGB, larger than a scene."""
        return np.array(PIL.Image.open(self.folder / self.backgrounds[number]))


class _Sheet(NamedTuple):
    """One image to cut from: the task of a worker process."""

    path: Path
    image: Record
    objects: list[tuple[str, int, Record]]  # file, label, annotation
    background: str | None
    painted_over: list[Record]


def cut_bank(
    folder: Path,
    coco: CocoFile,
    images: Path,
    sources: PasteSources,
    *,
    scene: tuple[int, int],
    workers: int,
    reporter: Reporter | None,
) -> None:
    """Cut objects, which have masks, and backgrounds out of the files in `images` and write them with an index.

    `folder` is created. `scene` is the (height, width) of the scenes to compose, in pixels.

    Raises:
        BCNetError: if an image is missing, damaged, or of another size than the annotations say.
    """
    sheets = _sheets(coco, images, sources)
    folder.mkdir(parents=True)
    objects: list[BankObject] = []
    with map_with_progress(
        partial(_cut_sheet, folder, scene), sheets,
        title="cut out", count=len(sheets), chunk=1, workers=workers, most=len(sheets), reporter=reporter,
    ) as results:  # fmt: skip
        for found in results:
            objects += found
    backgrounds = [{"file": sheet.background, "image": sheet.image["id"]} for sheet in sheets if sheet.background]
    write_json(folder / BANK_INDEX, {"objects": list(map(asdict, objects)), "backgrounds": backgrounds})


@lru_cache(maxsize=4)
def read_bank(folder: Path) -> Bank:
    """Read the index that `cut_bank` wrote, once per process."""
    content = read_json(folder / BANK_INDEX)
    objects = tuple(BankObject(**one) for one in content["objects"])
    return Bank(folder, objects, tuple(one["file"] for one in content["backgrounds"]))


def _sheets(coco: CocoFile, images: Path, sources: PasteSources) -> list[_Sheet]:
    """Return a sheet for every image that something is taken from, in file order."""
    labels = {category["id"]: label for label, category in enumerate(coco.categories)}
    annotations, backgrounds = coco.annotations_by_image(), set(sources.backgrounds)
    taken: dict[int, list[tuple[str, int, Record]]] = {}
    for position in sorted(set(sources.objects)):
        annotation = coco.annotations[position]
        cut = (f"object_{position:08d}.png", labels[annotation["category_id"]], annotation)
        taken.setdefault(annotation["image_id"], []).append(cut)
    sheets = []
    for position, image in enumerate(coco.images):
        objects, is_background = taken.get(image["id"], []), position in backgrounds
        if objects or is_background:
            name = f"background_{position:08d}.jpg" if is_background else None
            painted_over = annotations[image["id"]] if is_background else []
            sheets.append(_Sheet(image_path(images, image["file_name"]), image, objects, name, painted_over))
    return sheets


def _cut_sheet(folder: Path, scene: tuple[int, int], sheet: _Sheet) -> list[BankObject]:
    size = sheet.image["height"], sheet.image["width"]
    pixels = read_image(sheet.path, expect_size=size)
    scale = min(scene[0] / size[0], scene[1] / size[1])
    found = []
    for file, label, annotation in sheet.objects:
        shrunk = _cut_object(pixels, _dense(annotation, size), folder / file, scene)
        found.append(BankObject(file, label, annotation["id"], sheet.image["id"], scale / shrunk))
    if sheet.background is not None:
        covered = np.zeros(size, dtype=bool)
        for annotation in sheet.painted_over:
            covered |= _dense(annotation, size)
        write_picture(folder / sheet.background, _paint_over(*_enlarge(pixels, covered, scene)))
    return found


def _dense(annotation: Record, size: tuple[int, int]) -> Mask:
    rle, _ = read_mask(annotation, *size)
    return np.zeros(size, dtype=bool) if rle is None else masks.decode(rle)


def _cut_object(pixels: Image, mask: Mask, path: Path, scene: tuple[int, int]) -> float:
    """Write an object with its mask as alpha, and return the factor by which it was shrunk to save space."""
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    rows = slice(max(y - MARGIN, 0), y + height + MARGIN)
    columns = slice(max(x - MARGIN, 0), x + width + MARGIN)
    picture = np.dstack([pixels[rows, columns], mask[rows, columns].astype(np.uint8) * 255])
    shrunk: float = min(1.0, LARGEST * min(scene) / max(picture.shape[:2]))
    if shrunk < 1:
        size = (max(round(picture.shape[1] * shrunk), 1), max(round(picture.shape[0] * shrunk), 1))
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    write_picture(path, picture)
    return shrunk


def _enlarge(pixels: Image, covered: Mask, scene: tuple[int, int]) -> tuple[Image, Mask]:
    """Resize an image and a mask so that a scene fits in with some room; a very long image keeps its middle."""
    height, width = covered.shape
    factor = ROOM * max(scene[0] / height, scene[1] / width)
    rows = min(height, math.ceil(MOST_ROOM * scene[0] / factor))
    columns = min(width, math.ceil(MOST_ROOM * scene[1] / factor))
    y, x = (height - rows) // 2, (width - columns) // 2
    size = (math.ceil(columns * factor), math.ceil(rows * factor))
    taken = np.ascontiguousarray(pixels[y : y + rows, x : x + columns])
    image = cv2.resize(taken, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    shown = np.ascontiguousarray(covered[y : y + rows, x : x + columns]).view(np.uint8)
    mask = cv2.resize(shown, size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(image, dtype=np.uint8), np.asarray(mask, dtype=bool)


def _paint_over(pixels: Image, covered: Mask) -> Image:
    """Inpaint the covered parts from their surroundings, at a quarter of the size."""
    if not covered.any():
        return pixels
    wide = cv2.dilate(covered.view(np.uint8), np.ones((3, 3), np.uint8), iterations=SEAM)
    small = (max(pixels.shape[1] // 4, 1), max(pixels.shape[0] // 4, 1))
    holes = (cv2.resize(wide.astype(np.float32), small, interpolation=cv2.INTER_AREA) > 0).astype(np.uint8)
    filled = cv2.inpaint(cv2.resize(pixels, small, interpolation=cv2.INTER_AREA), holes, 3, cv2.INPAINT_TELEA)
    filled = cv2.resize(filled, pixels.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    cover = cv2.GaussianBlur(wide.astype(np.float32), (0, 0), sigmaX=SEAM / 3)[..., None]
    painted: Image = np.rint(pixels * (1 - cover) + filled * cover).astype(np.uint8)
    return painted
