"""COCO results files, of this and of any other model: read, checked, written image by image.

The format: https://cocodataset.org/#format-results. Besides its keys a detection may carry `occluder`,
`occluder_boundary` and `occludee_boundary`, masks as RLE of the image's size, which `bcnet predict --layers` writes.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.errors import data_error
from bcnet_core.files.json_files import paused_collector, read_json
from bcnet_core.files.outputs import atomic_file
from bcnet_core.maps import map_specs

MOST_DETECTIONS = 100
"""Detections of an image that COCO counts, the best ones."""

MOST = 1e18
"""Of a score or a coordinate: json has whole numbers that no float can hold."""


def read_results(path: Path, coco: CocoFile) -> list[Record]:
    """Read a results file and check it against the images and categories that it speaks of.

    Args:
        path: `.json`, or gzip by the ending `.gz`.
        coco: ground truth, or an image list.

    Returns:
        The results in the order of the file. Either all of them have a `segmentation`, a compressed RLE, or none has;
        a `bbox` that is missing is that of the mask. Masks under the other keys of
        `bcnet_core.maps` are RLEs, too; all further keys are dropped.

    Raises:
        BCNetError: if the file is not such a list, holds nothing, or names what the ground truth does not have; the
            message names the first fault and counts them.
    """
    content = read_json(path)
    if not isinstance(content, list):
        hint = "a COCO results file is a list of detections"
        is_truth = isinstance(content, dict) and "annotations" in content
        raise data_error(f"`{path}` is not a results file", f"{hint}; is this the ground truth?" if is_truth else hint)
    if not content:
        raise data_error(f"`{path}` holds no results: its list is empty", "did the model find nothing at all?")
    images = {image["id"]: (image["height"], image["width"]) for image in coco.images}
    categories = {category["id"] for category in coco.categories}
    checked, faults = [], []
    with paused_collector():
        for index, (result, sound) in enumerate(zip(content, _with_sound_masks(content, images), strict=True)):
            found = check_result(result, images, categories, sound=sound)
            if isinstance(found, str):
                faults.append(f"result {index}: {found}")
            else:
                checked.append(found)
    if not faults and len({"segmentation" in one for one in checked}) > 1:
        index = next(i for i, one in enumerate(checked) if "segmentation" not in one)
        faults.append(f"result {index}: it has no mask, others have")
    if faults:
        more = f" (and {len(faults) - 1:,} more such fault{'s' * (len(faults) > 2)})" if len(faults) > 1 else ""
        raise data_error(f"`{path}` cannot be scored against `{coco.path}`: {faults[0]}{more}")
    return checked


def check_result(  # noqa: PLR0911  (one for each fault)
    result: Any,  # noqa: ANN401
    images: dict[int, tuple[int, int]],
    categories: set[int],
    *,
    sound: bool = False,
) -> Record | str:
    """One detection as the scorers take it, or what is wrong with it.

    Args:
        result: as it stands in the file.
        images: (height, width) by id.
        categories: ids.
        sound: whether its mask is known to be a compressed RLE of the image's size.
    """
    if not isinstance(result, dict):
        return f"a {type(result).__name__} where a detection should be"
    image, category, score = (result.get(key) for key in ("image_id", "category_id", "score"))
    if type(image) is not int or image not in images:
        return f"image {reprlib.repr(image)} is not in the ground truth"
    if type(category) is not int or category not in categories:
        return f"category {reprlib.repr(category)} is not in the ground truth"
    try:
        rle = _mask(result.get("segmentation"), *images[image], sound=sound)
        keys = [spec.key for spec in map_specs() if spec.key != "segmentation" and spec.key in result]
        layers = {key: _mask(result[key], *images[image], sound=False) for key in keys}
    except (ValueError, TypeError) as error:
        return f"its mask cannot be used: {error}"
    box = masks.bounding_box(rle).tolist() if rle is not None and "bbox" not in result else result.get("bbox")
    if not _is_number(score):
        return f"its score is {reprlib.repr(score)}"
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)) or min(box[2:]) < 0:
        return f"its `bbox` is {reprlib.repr(box)}, not [x, y, width, height]"
    kept = {"image_id": image, "category_id": category, "bbox": box, "score": score, **layers}
    return kept if rle is None else {**kept, "segmentation": rle}


def _is_number(value: Any) -> bool:  # noqa: ANN401
    return type(value) in {int, float} and abs(value) < MOST


def _with_sound_masks(results: Sequence[Any], images: dict[int, tuple[int, int]]) -> list[bool]:
    """Which results have a compressed RLE of the size of their image; all at once, since one by one it takes long."""
    found = [False] * len(results)
    texts, sizes, places = [], [], []
    for index, result in enumerate(results):
        image = result.get("image_id") if isinstance(result, dict) else None
        segmentation = result.get("segmentation") if isinstance(result, dict) else None
        if type(image) is not int or image not in images or not isinstance(segmentation, dict):
            continue
        counts, size = segmentation.get("counts"), segmentation.get("size")
        if isinstance(counts, str) and counts.isascii() and size == list(images[image]):
            texts.append(counts.encode())
            sizes.append(images[image])
            places.append(index)
    for place, sound in zip(places, masks.are_sound(texts, sizes).tolist(), strict=True):
        found[place] = sound
    return found


def _mask(segmentation: Any, height: int, width: int, *, sound: bool) -> masks.RLE | None:  # noqa: ANN401
    """A detection's mask; one that is there but empty is a mask without pixels.

    Raises:
        ValueError: if it is no segmentation, or of another size.
    """
    if segmentation is None:
        return None
    if sound:
        return {"size": [height, width], "counts": segmentation["counts"].encode()}
    rle = masks.from_segmentation(segmentation, height, width)
    return masks.from_box(0, 0, 0, 0, height, width) if rle is None else rle


def write_results(path: Path, predictions: Iterable[list[Record]]) -> int:
    """Write a results file, atomically, holding no more than one image's results at a time.

    Args:
        path: the file.
        predictions: the results of one image after the other.

    Returns:
        How many there were.
    """
    count = 0
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        out.write("[")
        for results in predictions:
            for result in results:
                out.write(("," if count else "") + json.dumps(result, separators=(",", ":")))
                count += 1
        out.write("]")
    return count
