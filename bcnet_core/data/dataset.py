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
from bcnet_core.data.transforms import Scene, Step
from bcnet_core.errors import data_error
from bcnet_core.files.images import missing_images, read_listed
from bcnet_core.masks import RLE
from bcnet_core.masks.crops import MaskCrops, crop_rles

SURVEYED = 1000
"""Images, spread evenly over a set, from which the share of instances with an occluder is estimated."""


class Targets(NamedTuple):
    """The N instances of one training image.

    Attributes:
        boxes: (N, 4) float32, xyxy in pixels of the network's input.
        labels: (N,) int64 in [0, number of classes).
        occludees: visible mask of each instance, in the frame of the stored image.
        occluders: occluder region of each instance in that frame; empty where nothing overlaps it.
        placement: (4,) float32, the `Placement` of the stored image in the input.
    """

    boxes: Tensor
    labels: Tensor
    occludees: MaskCrops
    occluders: MaskCrops
    placement: Tensor

    def to(self, device: torch.device) -> Targets:
        """Return a copy on `device`."""
        return Targets._make(part.to(device) for part in self)


class Sample(NamedTuple):
    """One training image.

    Attributes:
        image: (3, h, w) uint8, RGB.
        targets: its instances.
        image_id: the COCO id.
        seed: seed of every random choice that is made for this sample, here and in the model.
    """

    image: Tensor
    targets: Targets
    image_id: int
    seed: int


class TrainingSet(Dataset[Sample]):
    """The images of a COCO file that have at least one instance to train on.

    Crowds, instances without a mask and boxes without an extent are no targets. Items are requested by
    `(position, seed)`, so that a sample does not depend on which process loads it, or when.

    Args:
        coco: plain COCO or bilayer annotations.
        image_dir: folder of the images.
        occluders: "derive" the occluder regions from the masks, read them from the "file", or "auto": read them where
            the file has them, and derive those of other instances.
        steps: augmentation, see `transforms.training_steps`; without a step an image keeps its size.

    Raises:
        BCNetError: if no image has an instance, or `occluders` is "file" and an instance has no region in the file.
    """

    def __init__(
        self, coco: CocoFile, image_dir: Path, *, occluders: OccluderSource = "auto", steps: Sequence[Step] = ()
    ) -> None:
        self.reads_occluders = occluders == "file" or (occluders == "auto" and has_occluders(coco))
        self._occluders: OccluderSource = occluders
        self._image_dir, self._steps = image_dir, steps
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
        """Load the image at a position; a seed decides the random choices.

        Raises:
            BCNetError: if the image or an annotation cannot be read.
        """
        position, seed = item
        rng, scene = np.random.default_rng(seed), self._scene(position)
        for step in self._steps:
            scene = step(scene, rng)
        placement = scene.placement
        targets = Targets(
            torch.from_numpy(placement.to_input(scene.boxes).astype(np.float32)),
            torch.from_numpy(scene.labels),
            crop_rles(scene.occludees),
            crop_rles(scene.occluders),
            torch.tensor(placement, dtype=torch.float32),
        )
        image = torch.from_numpy(np.ascontiguousarray(scene.render().transpose(2, 0, 1)))
        return Sample(image, targets, self._items[position][0]["id"], seed)

    @cached_property
    def wide(self) -> NDArray[np.bool_]:
        """(images,) whether each is wider than high."""
        return np.array([image["width"] > image["height"] for image, _ in self._items])

    @cached_property
    def without_region(self) -> int:
        """The number of instances whose annotation has no occluder region."""
        return sum(
            OCCLUDER_KEY not in one and _is_target(one, image)
            for image, annotations in self._items
            for one in annotations
        )

    def missing_images(self) -> list[Path]:
        """Return the image files that do not exist.

        Raises:
            BCNetError: if one lies outside of the folder of images.
        """
        names = missing_images(self._image_dir, (image["file_name"] for image, _ in self._items))
        return [self._image_dir / name for name in names]

    @cached_property
    def occluder_share(self) -> float:
        """The share of instances with an occluder in `SURVEYED` images, or in all images if those have none."""
        everything = range(len(self))
        if len(self) <= SURVEYED:
            return self._occluder_share_of(everything)
        spread = np.linspace(0, len(self) - 1, SURVEYED).astype(int).tolist()
        return self._occluder_share_of(spread) or self._occluder_share_of(everything)

    def _occluder_share_of(self, positions: Iterable[int]) -> float:
        regions = [region for position in positions for _, _, region in self._instances(position)]
        return sum(region is not None for region in regions) / max(len(regions), 1)

    def _instances(self, position: int) -> list[tuple[Record, RLE, RLE | None]]:
        """Return the instances of an image to train on, with their masks and occluder regions."""
        image, annotations = self._items[position]
        rles = [segmentation_rle(annotation, image) for annotation in annotations]
        regions = occluder_regions(annotations, rles, image, source=self._occluders)
        return [
            (annotation, rle, region)
            for annotation, rle, region in zip(annotations, rles, regions, strict=True)
            if _is_target(annotation, image) and rle is not None and masks.area(rle)
        ]

    def _scene(self, position: int) -> Scene:
        image = self._items[position][0]
        pixels, instances = read_listed(self._image_dir, image), self._instances(position)
        return Scene(
            pixels=pixels,
            boxes=np.array([_corners(one, image) for one, _, _ in instances], np.float64).reshape(-1, 4),
            labels=np.array([self._labels[one["category_id"]] for one, _, _ in instances], np.int64),
            occludees=[rle for _, rle, _ in instances],
            occluders=[region for _, _, region in instances],
            window=(0.0, 0.0, float(image["width"]), float(image["height"])),
            size=(image["height"], image["width"]),
        )


def _corners(annotation: Record, image: Record) -> NDArray[np.float64]:
    """Return the box of an annotation as (4,) xyxy, clipped to its image."""
    x, y, width, height = annotation["bbox"]
    corners = np.array([x, y, x + width, y + height], np.float64)
    return corners.clip(0, [image["width"], image["height"]] * 2)


def _is_target(annotation: Record, image: Record) -> bool:
    """Return whether an annotation can be trained on: no crowd, with a segmentation and an extent in its image."""
    if annotation.get("iscrowd", 0) or not annotation.get("segmentation"):
        return False
    x0, y0, x1, y1 = _corners(annotation, image)
    return bool(x1 > x0 and y1 > y0)
