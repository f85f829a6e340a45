"""The zip that the COCO test-dev server takes."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.errors import data_error
from bcnet_core.outputs import atomic_file

SUBMISSION_NAME = "detections_test-dev2017_bcnet_results"
MOST_DETECTIONS = 100
"""Detections of an image that the server counts."""


def write_submission(path: Path, coco: CocoFile, results: Sequence[Record]) -> None:
    """Check the results and write `detections_test-dev2017_bcnet_results.json`, alone in a zip.

    Args:
        path: the zip.
        coco: the test-dev image list.
        results: of its images.

    Raises:
        BCNetError: if a result names an image or category that is not in the list, has a mask of another size, a score
            that is no probability, or an image has more than 100.
    """
    check_submission(coco, results)
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        entry = zipfile.ZipInfo(f"{SUBMISSION_NAME}.json")  # a fixed time, so that equal results give equal bytes
        entry.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(entry, json.dumps(list(results), separators=(",", ":")))


def check_submission(coco: CocoFile, results: Sequence[Record]) -> None:
    """Refuse what the server would refuse; see `write_submission`."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in coco.images}
    categories = {category["id"] for category in coco.categories}
    for result in results:
        image, fault = result["image_id"], None
        if image not in sizes:
            fault = "the image is not in the list"
        elif result["category_id"] not in categories:
            fault = f"the category {result['category_id']} is not in the list"
        elif result["segmentation"]["size"] != sizes[image]:
            fault = f"its mask is {result['segmentation']['size']}, the image {sizes[image]}"
        elif not 0 <= result["score"] <= 1:
            fault = f"its score is {result['score']}"
        if fault is not None:
            raise data_error(f"a result of image {image} cannot be submitted: {fault}")
    crowded = [image for image, count in Counter(r["image_id"] for r in results).items() if count > MOST_DETECTIONS]
    if crowded:
        raise data_error(
            f"image {crowded[0]} has more than {MOST_DETECTIONS} detections", "model.detections_per_image=100"
        )
