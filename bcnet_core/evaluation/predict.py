"""Running a detector over the images of a COCO file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.errors import data_error
from bcnet_core.images import read_image
from bcnet_core.model.detectors import Detector
from bcnet_core.reporting import Reporter
from bcnet_core.structures import Detections


def predict_images(
    detector: Detector,
    images: Sequence[Record],
    image_dir: Path,
    *,
    reporter: Reporter,
    stopping: Callable[[], bool] = lambda: False,
) -> list[Record]:
    """Detect in every image, one at a time.

    Args:
        detector: in evaluation mode.
        images: entries of a COCO file's `images`.
        image_dir: the folder that their file names are relative to.
        reporter: told of the progress.
        stopping: asked before each image whether to leave out the rest.

    Returns:
        COCO results: `image_id`, `category_id`, `bbox` (xywh, pixels), `score`, `segmentation` (compressed RLE).

    Raises:
        BCNetError: if images are missing (said before the first is read) or cannot be read.
    """
    refuse_missing(images, image_dir)
    results: list[Record] = []
    with reporter.progress("predicting", len(images)) as progress:
        for image in images:
            if stopping():
                break
            pixels = read_image(image_dir / image["file_name"], expect_size=(image["height"], image["width"]))
            (found,) = detector.predict([pixels])
            results.extend(to_results(found, image["id"], detector.categories))
            progress.advance()
    return results


def refuse_missing(images: Sequence[Record], image_dir: Path) -> None:
    """Refuse a folder in which images are missing.

    Raises:
        BCNetError: with their number and the first.
    """
    missing = [image["file_name"] for image in images if not (image_dir / image["file_name"]).is_file()]
    if missing:
        raise data_error(
            f"{len(missing):,} of {len(images):,} images are not in `{image_dir}`, the first is `{missing[0]}`",
            "is the folder of images right? (--data-root)",
        )


def check_categories(categories: Sequence[Record], coco: CocoFile) -> None:
    """Refuse data whose categories are not those that a detector is trained on.

    Args:
        categories: that it is trained on.
        coco: the data.

    Raises:
        BCNetError: naming what differs on both sides.
    """
    trained = {category["id"]: str(category["name"]) for category in categories}
    given = {category["id"]: str(category["name"]) for category in coco.categories}
    if trained != given:
        only_trained = sorted(trained.items() - given.items())[:5]
        only_given = sorted(given.items() - trained.items())[:5]
        raise data_error(
            f"the detector knows {len(trained)} categories, `{coco.path}` has {len(given)}, and they differ",
            f"only in the detector: {only_trained or 'none'}",
            f"only in the file:     {only_given or 'none'}",
        )


def to_results(found: Detections, image_id: int, categories: Sequence[Record]) -> Iterator[Record]:
    """One COCO result a detection, best first."""
    boxes, rles = found.boxes.cpu(), found.rles
    sizes = boxes[:, 2:] - boxes[:, :2]
    for index, (score, label) in enumerate(zip(found.scores.tolist(), found.labels.tolist(), strict=True)):
        yield {
            "image_id": image_id,
            "category_id": categories[label]["id"],
            "bbox": [round(value, 3) for value in (*boxes[index, :2].tolist(), *sizes[index].tolist())],
            "score": score,
            "segmentation": masks.to_json(rles[index]),
        }
