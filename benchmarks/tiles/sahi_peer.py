"""Our detector behind SAHI, as its users wrap theirs; imported only where SAHI is installed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sahi.models.base import DetectionModel
from sahi.predict import get_sliced_prediction
from sahi.prediction import ObjectPrediction
from sahi.slicing import get_slice_bboxes
from sahi.utils.cv import get_coco_segmentation_from_bool_mask

from bcnet_core import masks
from bcnet_core.structures import Detections, Instances, Predictor

Shifts = Sequence[Sequence[float]]


class SahiModel(DetectionModel):
    """A detector as SAHI wants it; scores below the detector's own threshold are the only ones that it leaves out."""

    def __init__(self, detector: Predictor) -> None:
        self.detector = detector
        super().__init__(confidence_threshold=0.0, device="cpu", load_at_init=False)

    def perform_inference(self, image: NDArray[np.uint8]) -> None:
        """Find the instances of a slice, or of the whole photo."""
        self._original_predictions = self.detector.predict([image])

    def _create_object_prediction_list_from_original_predictions(
        self, shift_amount_list: Shifts | None = None, full_shape_list: Shifts | None = None
    ) -> None:
        found: Detections
        (found,) = self._original_predictions
        # SAHI passes a list of one pair for a slice, and the bare pair for the whole photo.
        shift = np.ravel(shift_amount_list or [[0, 0]]).tolist()
        full = np.ravel(full_shape_list or [found.image_size]).tolist()
        objects = []
        for mask, box, score, label in zip(found.masks, found.boxes, found.scores, found.labels, strict=True):
            polygons = get_coco_segmentation_from_bool_mask(mask.numpy())
            if polygons:  # SAHI has no object without a mask
                objects.append(
                    ObjectPrediction(
                        bbox=box.tolist(), segmentation=polygons, score=float(score), category_id=int(label),
                        category_name=str(self.detector.categories[int(label)]["name"]), shift_amount=shift,
                        full_shape=full,
                    )
                )  # fmt: skip
        self._object_prediction_list_per_image = [objects]


def merge_tiles(
    detector: Predictor, pixels: NDArray[np.uint8], *, tile: int, overlap: float, postprocess: str, metric: str
) -> list[ObjectPrediction]:
    """Predict a photo in slices and once as a whole, and merge, all by SAHI.

    Args:
        detector: whose objects are merged.
        pixels: (H, W, 3) uint8 RGB.
        tile: side of a slice, pixels.
        overlap: share of a slice that the next one sees, too.
        postprocess: "GREEDYNMM" or "NMS".
        metric: overlap of boxes that decides, "IOS" or "IOU", from SAHI's threshold of 0.5.
    """
    result = get_sliced_prediction(
        pixels, SahiModel(detector), slice_height=tile, slice_width=tile, overlap_height_ratio=overlap,
        overlap_width_ratio=overlap, postprocess_type=postprocess, postprocess_match_metric=metric,
        force_postprocess_type=True, verbose=0,
    )  # fmt: skip
    return list(result.object_prediction_list)


def to_instances(objects: Sequence[ObjectPrediction], height: int, width: int) -> Instances:
    """Return merged objects as instances of a photo, best first, with the pixels that SAHI fills its polygons with."""
    ranked = sorted(objects, key=lambda one: -one.score.value)
    rles = [masks.encode(one.mask.bool_mask) for one in ranked if one.mask is not None]
    return Instances(
        np.array([one.bbox.to_xyxy() for one in ranked], np.float32).reshape(-1, 4),
        np.array([one.score.value for one in ranked], np.float32),
        np.array([one.category.id for one in ranked], np.int64),
        (height, width),
        {"occludee_mask": rles},
        None,
    )


def slice_corners(height: int, width: int, *, tile: int, overlap: float) -> list[list[int]]:
    """Return the corners x0, y0, x1, y1 of SAHI's slices of a photo."""
    return [
        list(one)
        for one in get_slice_bboxes(
            height, width, slice_height=tile, slice_width=tile, auto_slice_resolution=False,
            overlap_height_ratio=overlap, overlap_width_ratio=overlap,
        )
    ]  # fmt: skip
