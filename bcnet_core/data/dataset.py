"""A COCO set as training samples: image, boxes, and the masks of both layers."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from bcnet_core import masks
from bcnet_core.annotations.coco import OCCLUDER_KEY, CocoFile, Record, has_occluders, segmentation_rle
from bcnet_core.annotations.occluder import occluder_regions
from bcnet_core.config.choices import OccluderSource
from bcnet_core.data.transforms import Placement, View, jittered_view, place, whole_view
from bcnet_core.errors import data_error
from bcnet_core.files.images import missing_images, read_listed
from bcnet_core.masks.crops import MaskCrops, crop_rles

SURVEYED = 1000
"""Images, spread evenly over a set, that tell how many of its instances have an occluder."""


class Targets(NamedTuple):
    """What one training image holds: N instances.

    Attributes:
        boxes: (N, 4) float32, xyxy in pixels of the network's input.
        labels: (N,) int64 in [0, number of classes).
        occludees: the visible mask of each instance, in the frame of the stored image.
        occluders: the occluder region of each instance (empty where nothing overlaps it), likewise.
        placement: (4,) float32, the `Placement` of the stored image in the input.
    """

    boxes: Tensor
    labels: Tensor
    occludees: MaskCrops
    occluders: MaskCrops
    placement: Tensor

    def to(self, device: torch.device) -> Targets:
        """The same targets on `device`."""
        return Targets(
            self.boxes.to(device),
            self.labels.to(device),
            self.occludees.to(device),
            self.occluders.to(device),
            self.placement.to(device),
        )


class Sample(NamedTuple):
    """One training image.

    Attributes:
        image: (3, h, w) uint8, RGB.
        targets: its instances.
        image_id: the COCO id.
        seed: of every random choice that is made for this sample, here and in the model.
    """

    image: Tensor
    targets: Targets
    image_id: int
    seed: int


class TrainingSet(Dataset[Sample]):
    """The images of a COCO file that have at least one instance to learn from.

    Crowds, instances without a mask and boxes without an extent are left out as targets. Items are asked for by
    `(position, seed)`, so that a sample does not depend on which process loads it, or when.

    Args:
        coco: plain COCO or bilayer annotations.
        image_dir: the folder of the images.
        occluders: "derive" the occluder regions from the masks, read them from the "file", or "auto": read them where
            the file has them, and derive those of other instances.
        min_size: shorter side of the network's input in pixels.
        max_size: bound of its longer side.
        flip: probability of a mirror image.
        train_sizes: shorter sides to draw from instead of `min_size`.
        scale_jitter: large-scale jitter between these factors of `max_size` instead; see `jittered_view`.

    Raises:
        BCNetError: if no image has an instance, or `occluders` is "file" and the file lacks that of an instance.
    """

    def __init__(
        self,
        coco: CocoFile,
        image_dir: Path,
        *,
        occluders: OccluderSource = "auto",
        min_size: int,
        max_size: int,
        flip: float = 0.0,
        train_sizes: Sequence[int] = (),
        scale_jitter: tuple[float, float] | None = None,
    ) -> None:
        self.reads_occluders = occluders == "file" or (occluders == "auto" and has_occluders(coco))
        self._occluders: OccluderSource = occluders
        self._image_dir, self._max_size, self._flip = image_dir, max_size, flip
        self._sizes, self._jitter = tuple(train_sizes) or (min_size,), scale_jitter
        self._labels = {category["id"]: label for label, category in enumerate(coco.categories)}
        grouped = coco.annotations_by_image()
        self._items = [
            (image, grouped[image["id"]])
            for image in coco.images
            if any(_is_target(one, image) for one in grouped[image["id"]])
        ]
        if not self._items:
            without = sum(not one.get("segmentation") for one in coco.annotations)
            raise data_error(
                f"`{coco.path}` has no instance to train on: {len(coco.annotations):,} annotations, "
                f"{without:,} without a segmentation",
                "an instance needs a segmentation and a box with an extent, and is no crowd",
            )
        if occluders == "file" and self.without_region:
            raise data_error(
                f"`{coco.path}` has no `{OCCLUDER_KEY}` for {self.without_region:,} instances",
                f"add it: bcnet annotate {shlex.quote(str(coco.path))} -o bilayer.json",
                "or derive it on the fly where it is missing: data.occluders=auto",
            )

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        """Load the image at a position, with the random choices that a seed decides.

        Raises:
            BCNetError: if the image or an annotation cannot be read.
        """
        position, seed = item
        image, annotations = self._items[position]
        pixels = read_listed(self._image_dir, image)
        rng = np.random.default_rng(seed)
        flip = bool(rng.random() < self._flip)
        view = self._view(rng, image["height"], image["width"])
        placed, placement = place(pixels, view, flip=flip)
        tensor = torch.from_numpy(np.ascontiguousarray(placed.transpose(2, 0, 1)))
        return Sample(tensor, self._targets(image, annotations, view, placement), image["id"], seed)

    @cached_property
    def wide(self) -> NDArray[np.bool_]:
        """(images,) whether each is wider than high."""
        return np.array([image["width"] > image["height"] for image, _ in self._items])

    @cached_property
    def without_region(self) -> int:
        """The instances whose annotation does not say what their occluder is."""
        return sum(
            OCCLUDER_KEY not in one and _is_target(one, image)
            for image, annotations in self._items
            for one in annotations
        )

    def missing_images(self) -> list[Path]:
        """The image files that are not there.

        Raises:
            BCNetError: if one lies outside of the folder of images.
        """
        names = missing_images(self._image_dir, (image["file_name"] for image, _ in self._items))
        return [self._image_dir / name for name in names]

    @cached_property
    def occluder_share(self) -> float:
        """The share of instances with an occluder, over `SURVEYED` images; over all of them where these have none."""
        everything = range(len(self))
        if len(self) <= SURVEYED:
            return self._occluder_share_of(everything)
        spread = np.linspace(0, len(self) - 1, SURVEYED).astype(int).tolist()
        return self._occluder_share_of(spread) or self._occluder_share_of(everything)

    def _view(self, rng: np.random.Generator, height: int, width: int) -> View:
        """What an epoch sees of an image."""
        if self._jitter is not None:
            return jittered_view(rng, height, width, factors=self._jitter, side=self._max_size)
        size = self._sizes[int(rng.integers(len(self._sizes)))] if len(self._sizes) > 1 else self._sizes[0]
        return whole_view(height, width, min_size=size, max_size=self._max_size)

    def _occluder_share_of(self, positions: Iterable[int]) -> float:
        count = found = 0
        for position in positions:
            _, _, occluders = self._layers(*self._items[position])
            count += len(occluders)
            found += sum(occluder is not None for occluder in occluders)
        return found / max(count, 1)

    def _layers(
        self, image: Record, annotations: list[Record]
    ) -> tuple[list[Record], list[masks.RLE | None], list[masks.RLE | None]]:
        """The instances to learn from, with their masks and occluder regions."""
        rles = [segmentation_rle(annotation, image) for annotation in annotations]
        regions = occluder_regions(annotations, rles, image, source=self._occluders)
        kept = [
            index
            for index, (annotation, rle) in enumerate(zip(annotations, rles, strict=True))
            if _is_target(annotation, image) and rle is not None and masks.area(rle)
        ]
        return [annotations[i] for i in kept], [rles[i] for i in kept], [regions[i] for i in kept]

    def _targets(self, image: Record, annotations: list[Record], view: View, placement: Placement) -> Targets:
        instances, rles, regions = self._layers(image, annotations)
        boxes = np.array([_corners(instance, image) for instance in instances], np.float64).reshape(-1, 4)
        window = view.pixels()
        if window != (0, 0, image["width"], image["height"]):
            seen = masks.from_box(*window, image["height"], image["width"])
            rles, regions = _within(rles, seen), _within(regions, seen)
            kept = [index for index, rle in enumerate(rles) if rle is not None and masks.area(rle)]
            instances, rles = [instances[i] for i in kept], [rles[i] for i in kept]
            regions = [regions[i] for i in kept]
            boxes = _cut_boxes(boxes[kept], rles, view)
        return Targets(
            torch.from_numpy(placement.to_input(boxes).astype(np.float32)),
            torch.tensor([self._labels[instance["category_id"]] for instance in instances], dtype=torch.int64),
            crop_rles(rles),
            crop_rles(regions),
            torch.tensor(placement, dtype=torch.float32),
        )


def _within(rles: list[masks.RLE | None], seen: masks.RLE) -> list[masks.RLE | None]:
    """Of each mask what lies in the window that is seen."""
    return [None if rle is None else masks.intersection(rle, seen) for rle in rles]


def _cut_boxes(boxes: NDArray[np.float64], rles: list[masks.RLE | None], view: View) -> NDArray[np.float64]:
    """Boxes, (N, 4) xyxy, of instances of which a view may show a part: that part's, where the view cuts them."""
    cut: NDArray[np.float64] = boxes.copy()
    for index, rle in enumerate(rles):
        x0, y0, x1, y1 = boxes[index]
        if rle is not None and (x0 < view.x0 or y0 < view.y0 or x1 > view.x1 or y1 > view.y1):
            x, y, width, height = masks.bounding_box(rle)
            part = np.array([x, y, x + width, y + height])
            cut[index] = part.clip([view.x0, view.y0] * 2, [view.x1, view.y1] * 2)
    return cut


def _corners(annotation: Record, image: Record) -> NDArray[np.float64]:
    """The box of an annotation as (4,) xyxy, cut to its image."""
    x, y, width, height = annotation["bbox"]
    limit = [image["width"], image["height"]] * 2
    corners = np.array([x, y, x + width, y + height], np.float64)
    cut: NDArray[np.float64] = corners.clip(0, limit)
    return cut


def _is_target(annotation: Record, image: Record) -> bool:
    """Whether an annotation may be an instance to learn from: no crowd, segmented, with an extent in its image."""
    if annotation.get("iscrowd", 0) or not annotation.get("segmentation"):
        return False
    x0, y0, x1, y1 = _corners(annotation, image)
    return bool(x1 > x0 and y1 > y0)
