"""Copy-paste on the fly (Ghiasi et al., 2021), aimed at occlusion: objects of the training set hide instances.

What lies on top is known for a pasted object, so the masks of both layers stay exact. METHOD section 4 has the rule of
the occluder regions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.amodal import lacks, whole_masks
from bcnet_core.annotations.coco import CocoFile, Record, segmentation_rle
from bcnet_core.annotations.occluder import occluder_regions
from bcnet_core.data.transforms import Scene
from bcnet_core.errors import data_error
from bcnet_core.files.images import read_listed
from bcnet_core.masks import RLE
from bcnet_core.synth.bank import MARGIN, Cutout
from bcnet_core.synth.composition import OBJECT_TRIES, SMALLEST, corner_over, prepare
from bcnet_core.synth.plan import survey

SOURCES = 1000
"""Images, spread evenly over a set, whose objects are pasted: to survey all of COCO's takes half an hour."""
ENOUGH = 200
"""Complete objects from which on no others are pasted."""


class PasteObject(NamedTuple):
    """An object that is pasted.

    Attributes:
        annotation: along which it is cut out.
        whole: whether its mask is known to be its whole one. False where whole masks are not read.
    """

    annotation: Record
    whole: bool


@dataclass(frozen=True)
class PasteObjects:
    """The objects of a training set that are pasted.

    Attributes:
        image_dir: folder of the images.
        images: images that have such objects.
        objects: for each of them, its objects.
        labels: label of each category id.
        complete: whether nothing hides any of them; otherwise some only are in one piece.
    """

    image_dir: Path
    images: list[Record]
    objects: list[list[PasteObject]]
    labels: dict[int, int]
    complete: bool

    def __len__(self) -> int:
        """Return the number of objects."""
        return sum(map(len, self.objects))

    def describe(self) -> str:
        """Return a sentence such as "copy-paste: 510 whole objects of 69 images"."""
        kind = "whole objects" if self.complete else "objects in one piece"
        return f"copy-paste: {len(self):,} {kind} of {len(self.images):,} images"

    def draw(self, rng: Generator, *, most: int) -> tuple[list[tuple[Cutout, bool]], tuple[int, int]]:
        """Cut 1 to `most` objects out of a random image, and return them with its (height, width) in pixels.

        With each comes whether its mask is known to be its whole one.

        Raises:
            BCNetError: if the image cannot be read.
        """
        position = int(rng.integers(len(self.images)))
        image, group = self.images[position], self.objects[position]
        pixels = read_listed(self.image_dir, image)
        chosen = rng.permutation(len(group))[: int(rng.integers(1, most + 1))]
        drawn = [group[index] for index in chosen.tolist()]
        return [(self._cut(pixels, one.annotation, image), one.whole) for one in drawn], pixels.shape[:2]

    def _cut(self, pixels: NDArray[np.uint8], annotation: Record, image: Record) -> Cutout:
        rle = segmentation_rle(annotation, image)
        assert rle is not None, "the survey left out annotations without a mask"
        x, y, width, height = masks.bounding_box(rle).astype(int).tolist()
        x0, y0 = max(x - MARGIN, 0), max(y - MARGIN, 0)
        x1, y1 = min(x + width + MARGIN, image["width"]), min(y + height + MARGIN, image["height"])
        alpha = masks.decode_window(rle, x0, y0, x1, y1).astype(np.float32)
        return Cutout(pixels[y0:y1, x0:x1], alpha, self.labels[annotation["category_id"]], annotation["id"])


def find_objects(coco: CocoFile, image_dir: Path, *, reads_wholes: bool = False) -> PasteObjects:
    """Find the objects to paste from the annotations of at most `SOURCES` images; opens no image.

    They are complete as `synth.plan` defines it. Where few are, those that only touch another object are taken, too.

    Args:
        coco: valid annotations.
        image_dir: folder of the images.
        reads_wholes: whether whole masks are read: a stored one decides whether anything hides its object.

    Raises:
        BCNetError: if there is no such object, or a whole mask that is read cannot be.
    """
    annotated = {one["image_id"] for one in coco.annotations}
    listed = [image for image in coco.images if image["id"] in annotated]
    spread = np.linspace(0, len(listed) - 1, min(len(listed), SOURCES)).astype(int).tolist()
    images = {listed[position]["id"]: listed[position] for position in spread}
    annotations = [one for one in coco.annotations if one["image_id"] in images]
    part = replace(coco, content={**coco.content, "images": list(images.values()), "annotations": annotations})
    found = survey(part, min_area=SMALLEST**2)
    few = len(found.complete) < ENOUGH
    chosen = sorted([*found.complete, *found.touched]) if few else found.complete
    if not chosen:
        raise data_error(
            f"`{coco.path}` has no object to paste over others: {found.reasons}",
            "train without: data.copy_paste.probability=0",
        )
    complete = set(found.complete)
    groups: dict[int, list[PasteObject]] = {}
    for position in chosen:
        annotation = annotations[position]
        image = images[annotation["image_id"]]
        whole = reads_wholes and _is_whole(annotation, image, complete=position in complete)
        groups.setdefault(image["id"], []).append(PasteObject(annotation, whole))
    labels = {category["id"]: label for label, category in enumerate(coco.categories)}
    listed = [images[number] for number in groups]
    return PasteObjects(image_dir, listed, list(groups.values()), labels, len(chosen) == len(complete))


def _is_whole(annotation: Record, image: Record, *, complete: bool) -> bool:
    """Return whether the visible mask is the whole one: as the stored one says, or without one as `complete` does."""
    visible = segmentation_rle(annotation, image)
    (whole,) = whole_masks([annotation], [visible], image)
    return complete if whole is None or visible is None else not lacks(visible, whole)


def paste_objects(
    scene: Scene,
    rng: Generator,
    *,
    objects: PasteObjects,
    probability: float,
    most: int,
    overlap: tuple[float, float],
    scale: tuple[float, float],
    mirror: float,
) -> Scene:
    """Paste objects over a scene with some probability, each so that it hides a part of an instance.

    Each lies inside the image and has the size that it had relative to its own image, times a factor. The masks of
    instances lose the pixels of an object on top, and a box shrinks if its mask does. Known whole masks stay, and so do
    the boxes that enclose them. An object for which no place is found in some tries is left out.

    Args:
        scene: the whole image, not yet cropped.
        rng: decides everything.
        objects: where the objects come from.
        probability: of pasting anything.
        most: largest number of objects.
        overlap: least and most share of an instance to hide. No instance loses more in all.
        scale: smallest and largest of the factors.
        mirror: probability that an object is mirrored.

    Raises:
        BCNetError: if the image of the objects cannot be read.
    """
    if rng.random() >= probability:
        return scene
    height, width = scene.pixels.shape[:2]
    cutouts, source = objects.draw(rng, most=most)
    relative = min(height / source[0], width / source[1])
    canvas = _Canvas(scene)
    for cutout, whole in cutouts:
        factor = relative * float(np.exp(rng.uniform(*np.log(scale))))
        shown = prepare(rng, cutout, scale=factor, side=min(height, width), mirror=mirror)
        for _ in range(OBJECT_TRIES if shown.mask.any() else 0):
            corner = canvas.propose(rng, shown, overlap)
            if corner is not None and canvas.paste(shown, *corner, most=overlap[1], whole=whole):
                break
    return canvas.scene()


class _Canvas:
    """A scene that objects are pasted over."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self._pixels = scene, scene.pixels.copy()
        self._size = scene.pixels.shape[:2]
        self._visible, self._wholes, self._boxes = list(scene.occludees), list(scene.wholes), [*scene.boxes]
        self._extents = [_corners(rle) for rle in scene.occludees]
        self._areas = [masks.area(rle) for rle in scene.occludees]  # before anything is pasted
        self._pasted: list[int] = []  # labels
        self._changed: list[NDArray[np.float64]] = []  # boxes with other pixels or other corners than before

    def propose(self, rng: Generator, shown: Cutout, overlap: tuple[float, float]) -> tuple[int, int] | None:
        """Propose row and column for an object over a random instance, or anywhere if there is none."""
        room = [length - side for length, side in zip(self._size, shown.alpha.shape, strict=True)]
        if min(room) < 0:
            return None
        if not self._visible:
            return int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1))
        below = self._visible[int(rng.integers(len(self._visible)))]
        x, y, width, height = masks.bounding_box(below).astype(int).tolist()
        under = masks.decode_window(below, x, y, x + width, y + height)
        corner = corner_over(rng, shown.mask, under, share=rng.uniform(*overlap))
        if corner is None:
            return None
        row, column = y + corner[0], x + corner[1]
        return (row, column) if 0 <= row <= room[0] and 0 <= column <= room[1] else None

    def paste(self, shown: Cutout, row: int, column: int, *, most: float, whole: bool) -> bool:
        """Paste an object with its corner there, unless an instance would have lost more than this share in all.

        `whole` tells that its mask is its whole one, which is then known whatever is pasted over it.
        """
        mask = masks.from_window(shown.mask, column, row, *self._size)
        corners, rest = _corners(mask), masks.complement(mask)
        below = _touch(np.array(self._extents).reshape(-1, 4), corners[None]).nonzero()[0].tolist()
        left = {index: masks.intersection(self._visible[index], rest) for index in below}
        if any(masks.area(rle) < max((1 - most) * self._areas[index], 1) for index, rle in left.items()):
            return False
        for index, rle in left.items():
            extent, self._visible[index] = _corners(rle), rle
            shrinks, self._extents[index] = bool((extent != self._extents[index]).any()), extent
            if shrinks and not (self._scene.amodal_boxes and self._wholes[index]):
                self._changed += [self._boxes[index], extent]
                self._boxes[index] = extent
        self._visible.append(mask)
        self._wholes.append(mask if whole else None)
        self._boxes.append(corners)
        self._extents.append(corners)
        self._areas.append(masks.area(mask))
        self._pasted.append(shown.label)
        self._changed.append(corners)
        window = slice(row, row + shown.alpha.shape[0]), slice(column, column + shown.alpha.shape[1])
        cover = shown.alpha[..., None]
        self._pixels[window] = np.rint(self._pixels[window] * (1 - cover) + shown.image * cover)
        return True

    def scene(self) -> Scene:
        """Return the scene with what was pasted.

        Occluder regions that this may change are found again; others stay as the annotation file has them.
        """
        if not self._pasted:
            return self._scene
        boxes, extents = np.array(self._boxes), np.array(self._extents)
        reach = np.array([box if rle is None else _corners(rle) for box, rle in zip(boxes, self._wholes, strict=True)])
        affected = _touch(reach, np.array(self._changed))
        near = (_touch(boxes, reach[affected]) | _touch(extents, reach[affected])).nonzero()[0].tolist()
        records = [{"bbox": [x0, y0, x1 - x0, y1 - y0]} for x0, y0, x1, y1 in boxes[near].tolist()]
        occluders: list[RLE | None] = [*self._scene.occluders, *(None for _ in self._pasted)]
        visible, wholes = ([rles[index] for index in near] for rles in (self._visible, self._wholes))
        image = {"height": self._size[0], "width": self._size[1]}
        derived = occluder_regions(records, visible, image, source="derive", wholes=wholes)
        for index, region in zip(near, derived, strict=True):
            if affected[index]:
                occluders[index] = region
        return self._scene._replace(
            pixels=self._pixels,
            boxes=boxes,
            labels=np.concatenate([self._scene.labels, np.array(self._pasted, np.int64)]),
            occludees=self._visible,
            occluders=occluders,
            wholes=self._wholes,
        )


def _corners(mask: RLE) -> NDArray[np.float64]:
    """Return the tight (4,) xyxy box of a mask in pixels."""
    x, y, width, height = masks.bounding_box(mask)
    return np.array([x, y, x + width, y + height])


def _touch(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which of (N, 4) xyxy boxes are at most a pixel, which `OccluderRule` adds, from any of the others."""
    gaps = np.maximum(boxes[:, None, :2] - others[:, 2:], others[:, :2] - boxes[:, None, 2:])  # (N, M, 2)
    touching: NDArray[np.bool_] = np.any(np.all(gaps <= 1, axis=2), axis=1)
    return touching
