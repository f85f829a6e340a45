"""The zip that the COCO test-dev server takes."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.errors import data_error
from bcnet_core.evaluation.results import MOST_DETECTIONS, check_result
from bcnet_core.files.outputs import atomic_file

SUBMISSION_NAME = "detections_test-dev2017_bcnet_results"


def write_submission(path: Path, coco: CocoFile, predictions: Iterable[Sequence[Record]]) -> int:
    """Check results and write `detections_test-dev2017_bcnet_results.json`, alone in a zip.

    Args:
        path: the zip.
        coco: the test-dev image list.
        predictions: the results of one image after the other.

    Returns:
        How many results there were.

    Raises:
        BCNetError: if a result names an image or category that is not in the list, has no mask or one of another size,
            a score that is no probability, or an image has more than 100. Nothing is written then.
    """
    images = {image["id"]: (image["height"], image["width"]) for image in coco.images}
    categories = {category["id"] for category in coco.categories}
    entry = zipfile.ZipInfo(f"{SUBMISSION_NAME}.json")  # a fixed time, so that equal results give equal bytes
    entry.compress_type = zipfile.ZIP_DEFLATED
    counts: Counter[int] = Counter()
    with (
        atomic_file(path) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
        archive.open(entry, "w", force_zip64=True) as out,
    ):
        out.write(b"[")
        for result in chain.from_iterable(predictions):
            _check(result, images, categories)
            counts[result["image_id"]] += 1
            _check_count(result["image_id"], counts)
            separator = b"," if counts.total() > 1 else b""
            out.write(separator + json.dumps(result, separators=(",", ":")).encode())
        out.write(b"]")
    return counts.total()


def _check(result: Record, images: dict[int, tuple[int, int]], categories: set[int]) -> None:
    """Refuse what the server would refuse of one result."""
    found = check_result(result, images, categories)
    fault = found if isinstance(found, str) else None
    if fault is None and "segmentation" not in found:
        fault = "it has no mask"
    if fault is None and not 0 <= result["score"] <= 1:
        fault = f"its score is {result['score']}"
    if fault is not None:
        raise data_error(f"a result of image {result.get('image_id')} cannot be submitted: {fault}")


def _check_count(image_id: int, counts: Counter[int]) -> None:
    if counts[image_id] > MOST_DETECTIONS:
        raise data_error(
            f"image {image_id} has more than {MOST_DETECTIONS} detections", "model.detections_per_image=100"
        )
