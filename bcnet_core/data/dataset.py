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

from bcnet_core.annotations.amodal import WholeCounts, add_counts, count_wholes, enclosing_boxes, whole_masks
from bcnet_core.annotations.coco import (
    AMODAL_KEY,
    OCCLUDER_KEY,
    CocoFile,
    Record,
    has_occluders,
    segmentation_rle,
    ways_out,
)
from bcnet_core.annotations.crowding import most_objects
from bcnet_core.annotations.instances import describe_omissions, survey_instances
from bcnet_core.annotations.occluder import occluder_regions
from bcnet_core.config.choices import OccluderSource
from bcnet_core.data.copy_paste import PasteObjects
from bcnet_core.data.transforms import Scene, Step
from bcnet_core.errors import data_error
from bcnet_core.files.images import check_images, read_listed
from bcnet_core.masks import RLE
from bcnet_core.masks.crops import MaskCrops, crop_rles
from bcnet_core.synth.plan import object_flaws

SURVEYED = 1000
"""Images, spread evenly over a set, in which instances with an occluder or a whole mask are counted."""


class Targets(NamedTuple):
    """The N instances of one training image.

    Attributes:
        boxes: (N, 4) float32, xyxy in pixels of the network's input.
        labels: (N,) int64 in [0, number of classes).
        occludees: visible mask of each instance, in the frame of the stored image.
        occluders: occluder region of each instance in that frame; empty where nothing overlaps it.
        wholes: whole mask of each instance in that frame; empty where it is unknown.
        placement: (4,) float32, the `Placement` of the stored image in the input.
    """

    boxes: Tensor
    labels: Tensor
    occludees: MaskCrops
    occluders: MaskCrops
    wholes: MaskCrops
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


class Instances(NamedTuple):
    """The visible masks of the N instances of an image, and their (N, 4) boxes, xyxy in its pixels."""

    masks: list[RLE]
    boxes: NDArray[np.float64]


class TrainingSet(Dataset[Sample]):
    """The images of a COCO file that have at least one instance to train on.

    Every annotation is read first; those in `survey.omitted` are left out, with their reasons. Items are requested by
    `(position, seed)`, so that a sample does not depend on which process loads it, or when.

    Args:
        coco: plain COCO or bilayer annotations, any of which may be invalid.
        image_dir: folder of the images.
        occluders: "derive" the occluder regions from the masks, read them from the "file", or "auto": read them where
            the file has them, and derive those of other instances.
        amodal: whether whole masks are read where annotations have them.
        amodal_boxes: whether boxes enclose the whole masks, where these are known.
        complete: whether an instance that nothing hides, as `synth.plan` defines it, has its visible mask as the whole
            one where none is stored; for steps that then hide a part of it.
        steps: augmentation, see `transforms.training_steps`; without a step an image keeps its size.

    Attributes:
        survey: which annotations of the file are trained.
        reads_occluders: whether stored occluder regions are used.
        reads_wholes: whether whole masks are used.
        steps: augmentation; replaced where it needs the instances of the set.
        pasted: the objects that the steps paste over images, if any.

    Raises:
        BCNetError: if no image has an instance, or `occluders` is "file" and an instance has no region in the file.
    """

    def __init__(
        self,
        coco: CocoFile,
        image_dir: Path,
        *,
        occluders: OccluderSource = "auto",
        amodal: bool = False,
        amodal_boxes: bool = False,
        complete: bool = False,
        steps: Sequence[Step] = (),
    ) -> None:
        self.reads_wholes = amodal or amodal_boxes
        self.survey = survey_instances(coco, reads_occluders=occluders != "derive", reads_wholes=self.reads_wholes)
        coco = self.survey.coco
        self.reads_occluders = occluders == "file" or (occluders == "auto" and has_occluders(coco))
        self._occluders: OccluderSource = occluders
        self._amodal_boxes, self._complete = amodal_boxes, complete
        self._image_dir, self.steps = image_dir, steps
        self.pasted: PasteObjects | None = None
        self._labels = {category["id"]: label for label, category in enumerate(coco.categories)}
        grouped = coco.annotations_by_image()
        self._items = [(image, grouped[image["id"]]) for image in coco.images if grouped[image["id"]]]
        if not self._items:
            left_out = describe_omissions(self.survey.omitted)
            raise data_error(
                f"`{coco.path}` has no instance to train on: "
                + (f"all {self.survey.total:,} are left out, {left_out}" if left_out else "it has no annotation"),
                *ways_out(coco.path),
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
        for step in self.steps:
            scene = step(scene, rng)
        placement = scene.placement
        targets = Targets(
            torch.from_numpy(placement.to_input(scene.boxes).astype(np.float32)),
            torch.from_numpy(scene.labels),
            crop_rles(scene.occludees),
            crop_rles(scene.occluders),
            crop_rles(scene.wholes),
            torch.tensor(placement, dtype=torch.float32),
        )
        image = torch.from_numpy(np.ascontiguousarray(scene.render().transpose(2, 0, 1)))
        return Sample(image, targets, self._items[position][0]["id"], seed)

    def instances(self, position: int) -> Instances:
        """Return the instances of the image at a position, which is not read."""
        found = self._masks(position)
        return Instances(found.occludees, self._boxes(position, found))

    @cached_property
    def wide(self) -> NDArray[np.bool_]:
        """(images,) whether each is wider than high."""
        return np.array([image["width"] > image["height"] for image, _ in self._items])

    @cached_property
    def most_objects(self) -> int:
        """The number of instances of the fullest image."""
        return most_objects(self.survey.coco)

    @cached_property
    def without_region(self) -> int:
        """The number of instances whose annotation has no occluder region."""
        return sum(OCCLUDER_KEY not in one for one in self.survey.coco.annotations)

    def check_images(self) -> None:
        """Require every image to exist, in the folder of images.

        Raises:
            BCNetError: with the number of missing images and the first.
        """
        options = "data.train.images=FOLDER, or --data-root DIR"
        check_images([image for image, _ in self._items], self._image_dir, options=options)

    @cached_property
    def occluder_share(self) -> float:
        """The share of instances with an occluder in `SURVEYED` images, or in all images if those have none."""
        return self._occluder_share_of(self._spread) or self._occluder_share_of(range(len(self)))

    @cached_property
    def whole_counts(self) -> WholeCounts:
        """The counts of whole masks in `SURVEYED` images, or in all images if those have none."""
        counts = self._whole_counts_of(self._spread)
        stored = any(AMODAL_KEY in one for one in self.survey.coco.annotations)
        return counts if counts.known or not stored else self._whole_counts_of(range(len(self)))

    @property
    def _spread(self) -> Sequence[int]:
        """The positions of at most `SURVEYED` images, spread evenly."""
        return spread(len(self), SURVEYED)

    def _whole_counts_of(self, positions: Iterable[int]) -> WholeCounts:
        def count(position: int) -> WholeCounts:
            (image, annotations), found = self._items[position], self._masks(position)
            return count_wholes(annotations, found.occludees, found.wholes, image)

        return add_counts(map(count, positions))

    def _occluder_share_of(self, positions: Iterable[int]) -> float:
        regions = [region for position in positions for region in self._masks(position).occluders]
        return sum(region is not None for region in regions) / max(len(regions), 1)

    def _masks(self, position: int) -> _Masks:
        image, annotations = self._items[position]
        rles = [segmentation_rle(annotation, image) for annotation in annotations]
        wholes: list[RLE | None] = [None] * len(rles)
        if self.reads_wholes:
            wholes = whole_masks(annotations, rles, image)
        if self.reads_wholes and self._complete and None in wholes:
            flaws = object_flaws(rles, [False] * len(rles), min_area=1)
            wholes = [
                whole or (rle if flaw is None else None) for whole, rle, flaw in zip(wholes, rles, flaws, strict=True)
            ]
        occluders = occluder_regions(annotations, rles, image, source=self._occluders, wholes=wholes)
        visible = [rle for rle in rles if rle is not None]  # all of them: the survey left out the others
        return _Masks(visible, occluders, wholes)

    def _scene(self, position: int) -> Scene:
        image, annotations = self._items[position]
        pixels, found = read_listed(self._image_dir, image), self._masks(position)
        return Scene(
            pixels=pixels,
            boxes=self._boxes(position, found),
            labels=np.array([self._labels[one["category_id"]] for one in annotations], np.int64),
            occludees=found.occludees,
            occluders=found.occluders,
            wholes=found.wholes,
            amodal_boxes=self._amodal_boxes,
            window=(0.0, 0.0, float(image["width"]), float(image["height"])),
            size=(image["height"], image["width"]),
        )

    def _boxes(self, position: int, found: _Masks) -> NDArray[np.float64]:
        """Return the (N, 4) boxes of an image's instances, xyxy in its pixels."""
        image, annotations = self._items[position]
        boxes = enclosing_boxes(annotations, found.wholes, amodal=self._amodal_boxes)
        return np.array([_corners(box, image) for box in boxes], np.float64).reshape(-1, 4)


class _Masks(NamedTuple):
    """The masks of the N instances of an image; see `Scene`."""

    occludees: list[RLE]
    occluders: list[RLE | None]
    wholes: list[RLE | None]


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` of the positions of `count` things, spread evenly."""
    positions: list[int] = np.linspace(0, count - 1, min(count, most)).astype(int).tolist()
    return positions


def _corners(box: Sequence[float], image: Record) -> NDArray[np.float64]:
    """Return a box [x, y, width, height] as (4,) xyxy, clipped to its image."""
    x, y, width, height = box
    corners = np.array([x, y, x + width, y + height], np.float64)
    return corners.clip(0, [image["width"], image["height"]] * 2)
