"""Detections, inside their boxes and as masks of their image, and the interface of what predicts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from bcnet_core.maps import map_specs
from bcnet_core.masks import RLE, area, decode
from bcnet_core.masks.crops import paste_rles
from bcnet_core.masks.map_order import map_pairs
from bcnet_core.masks.order import FrontPair


class Detections(NamedTuple):
    """The N detections of one image of H x W pixels, best first; those inside given boxes, in the order of the boxes.

    Masks of the image's size are made on access: 100 of an image of 8,000 x 6,000 pixels take 5 GB.

    Attributes:
        boxes: (N, 4) float32, xyxy in pixels of the input image, clipped to it.
        scores: (N,) float32 in [0, 1], descending; those of given boxes are kept as they are.
        labels: (N,) int64, indices into the detector's `categories`; or what was given with the boxes.
        image_size: (H, W) of the input image in pixels.
        maps: the maps that the mask head predicts inside each box, (N, S, S) float32 in [0, 1] each, by their names in
            `bcnet_core.maps.MAPS`; `occludee_mask` is always among them.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    image_size: tuple[int, int]
    maps: dict[str, Tensor]

    def to(self, device: torch.device | str) -> Detections:
        """Return a copy on `device`."""
        boxes, scores, labels = (part.to(device) for part in (self.boxes, self.scores, self.labels))
        maps = {name: part.to(device) for name, part in self.maps.items()}
        return Detections(boxes, scores, labels, self.image_size, maps)

    def at_least(self, score: float) -> Detections:
        """Return the detections of this score or more."""
        kept = (self.scores >= score).nonzero()[:, 0]
        boxes, scores, labels = (part[kept] for part in (self.boxes, self.scores, self.labels))
        return Detections(
            boxes, scores, labels, self.image_size, {name: part[kept] for name, part in self.maps.items()}
        )

    def instances(self, *, layers: bool = False, order: bool = False) -> Instances:
        """Paste the maps into the image.

        Args:
            layers: whether to paste all maps; otherwise the masks of layer 2 alone.
            order: whether to find the order of overlapping instances even without whole masks: then the one that the
                other's occluder region covers is in front.
        """
        pasted = {
            spec.name: paste_rles(self.maps[spec.name], self.boxes, *self.image_size)
            for spec in map_specs(self.maps)
            if layers or (spec.kind == "mask" and spec.layer == "occludee")
        }
        pairs = map_pairs(self.maps, self.boxes) if order or self.amodal_mask is not None else None
        boxes, scores, labels = (part.cpu().numpy() for part in (self.boxes, self.scores, self.labels))
        return Instances(boxes, scores, labels, self.image_size, pasted, pairs)

    @property
    def occludee_mask(self) -> Tensor:
        """(N, S, S), the mask of layer 2: the visible part of the instance."""
        return self.maps["occludee_mask"]

    @property
    def occludee_boundary(self) -> Tensor | None:
        """(N, S, S), the boundary of layer 2; None if the head does not predict boundaries."""
        return self.maps.get("occludee_boundary")

    @property
    def occluder_mask(self) -> Tensor | None:
        """(N, S, S), the mask of layer 1: what overlaps the instance; None if the head has one layer."""
        return self.maps.get("occluder_mask")

    @property
    def occluder_boundary(self) -> Tensor | None:
        """(N, S, S), the boundary of layer 1; None if the head has one layer or does not predict boundaries."""
        return self.maps.get("occluder_boundary")

    @property
    def amodal_mask(self) -> Tensor | None:
        """(N, S, S), the whole instance, hidden parts included; None if the head does not predict it."""
        return self.maps.get("amodal_mask")

    @property
    def masks(self) -> Tensor:
        """(N, H, W) bool, the occludee masks in the image: `rles`, decoded at every access."""
        dense = np.zeros((len(self.boxes), *self.image_size), np.bool_)
        for mask, rle in zip(dense, self.rles, strict=True):
            mask[:] = decode(rle)
        return torch.from_numpy(dense).to(self.boxes.device)

    @property
    def rles(self) -> list[RLE]:
        """The N occludee masks in the image, run-length encoded."""
        return paste_rles(self.occludee_mask, self.boxes, *self.image_size)

    @property
    def amodal_rles(self) -> list[RLE] | None:
        """The N whole masks in the image, run-length encoded; each holds its visible mask."""
        return None if self.amodal_mask is None else paste_rles(self.amodal_mask, self.boxes, *self.image_size)

    @property
    def occlusion_rate(self) -> list[float] | None:
        """The N hidden shares of the whole masks, from 0 to 1; 1 where nothing is visible."""
        if (wholes := self.amodal_rles) is None:
            return None
        areas = [(area(seen), area(whole)) for seen, whole in zip(self.rles, wholes, strict=True)]
        return [1 - seen / whole if whole else 0.0 for seen, whole in areas]

    @property
    def order(self) -> list[FrontPair] | None:
        """The overlapping pairs of instances, by position, the one in front first; see `map_pairs`."""
        return None if self.amodal_mask is None else map_pairs(self.maps, self.boxes)


class Instances(NamedTuple):
    """The N instances of one image of H x W pixels as masks of its size: what tiles are joined to and files hold.

    Attributes:
        boxes: (N, 4) float32, the detected boxes, xyxy in pixels of the image.
        scores: (N,) float32 in [0, 1], descending; those of given boxes are kept as they are.
        labels: (N,) int64, indices into the detector's `categories`; or what was given with the boxes.
        image_size: (H, W) of the image in pixels.
        masks: N masks for each map that was pasted, by their names in `bcnet_core.maps.MAPS`; `occludee_mask` is always
            among them.
        order: pairs of instances of which one hides a part of the other; None if it was not asked for.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    image_size: tuple[int, int]
    masks: dict[str, list[RLE]]
    order: list[FrontPair] | None

    def to_json(self) -> dict[str, Any]:
        """Return the instances as JSON data."""
        return {
            "boxes": self.boxes.tolist(),
            "scores": self.scores.tolist(),
            "labels": self.labels.tolist(),
            "image_size": list(self.image_size),
            "masks": {name: [rle["counts"].decode() for rle in rles] for name, rles in self.masks.items()},
            "order": self.order,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Instances:
        """Return the instances that `to_json` made JSON data of."""
        size: list[int] = content["image_size"]
        return cls(
            np.array(content["boxes"], np.float32).reshape(-1, 4),
            np.array(content["scores"], np.float32),
            np.array(content["labels"], np.int64),
            (size[0], size[1]),
            {
                name: [RLE(size=size, counts=one.encode()) for one in counts]
                for name, counts in content["masks"].items()
            },
            None if content["order"] is None else [FrontPair(*pair) for pair in content["order"]],
        )


class Predictor(Protocol):
    """A detector of either backend in evaluation mode, or a stand-in."""

    @property
    def categories(self) -> Sequence[dict[str, Any]]:
        """COCO category records; the label of a detection is the position in this list."""

    def predict(self, images: list[NDArray[np.uint8]], /) -> list[Detections]:
        """Find instances in (H, W, 3) uint8 RGB images."""


@runtime_checkable
class BoxPredictor(Protocol):
    """A detector that predicts inside boxes from elsewhere."""

    def predict_inside(
        self,
        images: Sequence[NDArray[np.uint8]],
        boxes: Sequence[ArrayLike],
        /,
        *,
        scores: Sequence[ArrayLike],
        labels: Sequence[ArrayLike],
    ) -> list[Detections]:
        """Predict the masks of (H, W, 3) uint8 RGB images inside (N, 4) boxes, xyxy in pixels of each image."""
