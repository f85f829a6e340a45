"""COCO results of this and of any other model: read, checked, written image by image, packed for test-dev.

The format: https://cocodataset.org/#format-results. In memory a result is a `Record` with `image_id`, `category_id`,
`bbox` (xywh, pixels), `score` and, if the model predicts masks, `segmentation`. It may also have the other maps of the
head, each under its key in `bcnet_core.maps`, as `bcnet predict --layers` writes them. All masks are compressed RLEs of
the image's size: with bytes in memory, with text in files (`to_json`, `from_json`).

A detector of whole (amodal) masks adds keys. There `segmentation` is the visible mask and `bbox` its tight box (the
detected one if nothing is visible), `amodal_segmentation` the whole mask and `amodal_bbox` the detected box;
`occlusion_rate`, from 0 to 1, is the hidden share of the whole mask, and `hides` lists the results of the same image of
which this one hides a part, by their positions among them, from 0, in the order of the file.
"""

from __future__ import annotations

import json
import reprlib
import shlex
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from bcnet_core import masks
from bcnet_core.annotations.coco import CocoFile, Record, read_coco
from bcnet_core.annotations.crowding import MOST_DETECTIONS
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.evaluation.result_ids import ResultIds, exact_ids, match_ids
from bcnet_core.files.json_files import json_stem, paused_collector, read_json
from bcnet_core.files.outputs import atomic_file
from bcnet_core.maps import MAPS
from bcnet_core.reporting import Reporter

MASK_KEYS = tuple(spec.key for spec in MAPS)
"""Keys under which a result keeps a mask."""

NO_MASK: tuple[Any, ...] = (None, [], [[]])
"""Values of `segmentation` that detectors of boxes write."""

LARGEST = 1e18
"""Bound of scores and coordinates: JSON has integers that no float can hold."""

LISTED_AS = "listed_as"
"""Key of an image that `bcnet predict` lists: its `file_name` in the file that gave its id."""

SUBMISSION_NAME = "detections_test-dev2017_bcnet_results"


def to_json(result: Record) -> Record:
    """Return a result as files hold it."""
    return {key: masks.to_json(value) if key in MASK_KEYS else value for key, value in result.items()}


def from_json(result: Record) -> Record:
    """Return a result from a file of our own, which needs no check, as it is in memory."""
    return {
        key: {**value, "counts": value["counts"].encode()} if key in MASK_KEYS else value
        for key, value in result.items()
    }


def read_results(path: Path, coco: CocoFile, *, reporter: Reporter, keep: Sequence[str] = ()) -> list[Record]:
    """Read a results file (`.json`, or gzip if the name ends in `.gz`) and check it against its images and categories.

    Ids are read by `match_ids`, which reports whatever is not plain COCO. Results whose masks are all empty lists are
    boxes.

    Returns:
        The results in the order of the file, with the ids of the ground truth. Either all of them have a `segmentation`
        or none has; a missing `bbox` is derived from the mask; keys that are neither in the module's docstring nor in
        `keep` are dropped.

    Raises:
        BCNetError: if the file is not such a list, or refers to what the ground truth does not have; the message names
            the first fault and counts them.
    """
    content = read_json(path)
    if not isinstance(content, list):
        hint = "a COCO results file is a list of detections"
        is_truth = isinstance(content, dict) and "annotations" in content
        raise data_error(f"`{path}` is not a results file", f"{hint}; is this the ground truth?" if is_truth else hint)
    if not content:
        reporter.warning(f"`{path}` has no results: its list is empty")
    sizes = {image["id"]: (image["height"], image["width"]) for image in coco.images}
    checked, faults = [], []
    with paused_collector():
        ids = match_ids(content, coco, path, reporter=reporter)
        if not any(isinstance(one, dict) and one.get("segmentation") not in NO_MASK for one in content):
            for one in content:
                if isinstance(one, dict):
                    one.pop("segmentation", None)
        for index, result in enumerate(content):
            found = check_result(result, ids, sizes)
            if isinstance(found, str):
                faults.append(f"result {index}: {found}")
            else:
                checked.append(found | {key: result[key] for key in keep if key in result})
    faults = faults or _faults_together(checked)
    if faults:
        more = f" (and {len(faults) - 1:,} more such fault{'s' * (len(faults) > 2)})" if len(faults) > 1 else ""
        raise data_error(f"`{path}` does not fit `{coco.path}`: {faults[0]}{more}")
    return checked


def has_masks(results: Sequence[Record], coco: CocoFile) -> bool:
    """Return whether results are masks; for an empty list, whether the ground truth is."""
    return "segmentation" in results[0] if results else all(one.get("segmentation") for one in coco.annotations)


def check_result(  # noqa: PLR0911  (one return per fault)
    result: Any,  # noqa: ANN401
    ids: ResultIds,
    sizes: dict[int, tuple[int, int]],
) -> Record | str:
    """Return a detection as it is in memory, or what is wrong with it.

    Args:
        result: one entry of a results file.
        ids: images and categories of the ground truth.
        sizes: (height, width) of its images by id, in pixels.
    """
    if not isinstance(result, dict):
        return f"a {type(result).__name__} where a detection should be"
    image, category, score = ids.image(result), ids.category(result), result.get("score")
    if image is None:
        return f"image {reprlib.repr(result.get('image_id'))} is not in the ground truth"
    if category is None:
        return f"category {reprlib.repr(result.get('category_id'))} is not in the ground truth"
    size = sizes[image]
    try:
        found = {  # an empty segmentation is a mask without pixels
            key: masks.from_segmentation(result[key], *size) or masks.from_box(0, 0, 0, 0, *size)
            for key in MASK_KEYS
            if result.get(key) is not None
        }
    except (ValueError, TypeError) as error:
        return f"its mask cannot be used: {error}"
    box = result.get("bbox")
    if "bbox" not in result and "segmentation" in found:
        box = masks.bounding_box(found["segmentation"]).tolist()
    if not _is_number(score):
        return f"its score is {reprlib.repr(score)}"
    if not _is_box(box):
        return f"its `bbox` is {reprlib.repr(box)}, not [x, y, width, height]"
    amodal = {key: result[key] for key in AMODAL_KEYS if result.get(key) is not None}
    for key, value in amodal.items():
        if not AMODAL_KEYS[key](value):
            return f"its `{key}` is {reprlib.repr(value)}"
    return {"image_id": image, "category_id": category, "bbox": box, "score": score, **found, **amodal}


def _faults_together(results: Sequence[Record]) -> list[str]:
    """Return what is wrong with results each of which is sound."""
    if len({"segmentation" in one for one in results}) > 1:
        index = next(i for i, one in enumerate(results) if "segmentation" not in one)
        return [f"result {index}: it has no mask, others have"]
    counts, before, faults = Counter(one["image_id"] for one in results), Counter[int](), []
    for index, result in enumerate(results):
        image, hides = result["image_id"], result.get("hides", [])
        if before[image] in hides or max(hides, default=0) >= counts[image]:
            faults.append(
                f"result {index}: its `hides` is {reprlib.repr(hides)}, not positions of others of the "
                f"{counts[image]:,} results of its image"
            )
        before[image] += 1
    return faults


def _is_box(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value)) and min(value[2:]) >= 0


def _is_rate(value: Any) -> bool:  # noqa: ANN401
    return _is_number(value) and 0 <= value <= 1


def _is_positions(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)


AMODAL_KEYS: Mapping[str, Callable[[Any], bool]] = {
    "amodal_bbox": _is_box,
    "occlusion_rate": _is_rate,
    "hides": _is_positions,
}
"""Keys of a detector of whole masks, beside that of the mask, and what a value must be."""


def _is_number(value: Any) -> bool:  # noqa: ANN401
    return type(value) in {int, float} and abs(value) < LARGEST


def listing_path(results: Path) -> Path:
    """Return where `bcnet predict` writes the images and categories that its results refer to."""
    return results.with_name(f"{json_stem(results)}_images.json")


def check_same_images(results: Path, coco: CocoFile) -> None:
    """Require the image list beside a results file, if there is a readable one, to use the ids of the ground truth.

    Raises:
        BCNetError: with the number of ids that stand for another image, and the first.
    """
    listing = listing_path(results)
    if not listing.is_file():
        return
    try:
        listed = read_coco(listing, need_annotations=False).images
    except BCNetError:  # a file that bcnet did not write
        return
    known = {image["id"]: image["file_name"] for image in coco.images}
    shared = [image for image in listed if image["id"] in known]
    different = [
        image
        for image in shared
        if image.get(LISTED_AS) != known[image["id"]] and not _may_be_same(image["file_name"], known[image["id"]])
    ]
    if different:
        number, predicted = different[0]["id"], different[0]["file_name"]
        raise data_error(
            f"`{results}` is about other images than `{coco.path}`: {len(different):,} of {len(shared):,} ids stand "
            f"for another image; the first, {number}, is `{predicted}` there, not `{known[number]}`",
            f"predict with the ids of the ground truth: bcnet predict ... --ids-from {shlex.quote(str(coco.path))}",
            f"or, if they are the same images by other names, remove `{listing}`",
        )


def _may_be_same(one: str, other: str) -> bool:
    """Return whether two paths may name one image: they agree from the end, as far as both have folders."""
    ends = [[part for part in reversed(Path(name).parts) if part not in {"/", ".."}] for name in (one, other)]
    return all(first == second for first, second in zip(*ends, strict=False))


def write_results(path: Path, predictions: Iterable[Sequence[Record]]) -> int:
    """Write a results file atomically, holding the results of one image at a time; return their number."""
    with atomic_file(path) as temporary, temporary.open("wb") as out:
        return dump_results(out, predictions)


def write_submission(path: Path, coco: CocoFile, predictions: Iterable[Sequence[Record]]) -> int:
    """Check results and write the zip for the COCO test-dev server, with one JSON file in it; return their number.

    Raises:
        BCNetError: if a result is about an image or category that is not in the list, has no mask or one of another
            size, or a score outside [0, 1], or an image has more than 100. Nothing is written then.
    """
    ids, sizes = exact_ids(coco), {image["id"]: (image["height"], image["width"]) for image in coco.images}
    entry = zipfile.ZipInfo(f"{SUBMISSION_NAME}.json")  # with a fixed time, so that equal results give equal bytes
    entry.compress_type = zipfile.ZIP_DEFLATED

    def checked() -> Iterable[Sequence[Record]]:
        counts: Counter[int] = Counter()
        for results in predictions:
            for result in results:
                found = check_result(result, ids, sizes)
                if isinstance(found, dict) and "segmentation" not in found:
                    found = "it has no mask"
                elif isinstance(found, dict) and not 0 <= found["score"] <= 1:
                    found = f"its score is {found['score']}"
                if isinstance(found, str):
                    raise data_error(f"a result of image {result.get('image_id')} cannot be submitted: {found}")
                counts[result["image_id"]] += 1
                if counts[result["image_id"]] > MOST_DETECTIONS:
                    raise data_error(
                        f"image {result['image_id']} has more than {MOST_DETECTIONS} detections",
                        f"model.detections_per_image={MOST_DETECTIONS}",
                    )
            yield results

    with (
        atomic_file(path) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
        archive.open(entry, "w", force_zip64=True) as out,
    ):
        return dump_results(out, checked())


def dump_results(out: IO[bytes], predictions: Iterable[Sequence[Record]]) -> int:
    """Write results as one JSON list, and return their number."""
    count = 0
    out.write(b"[")
    for results in predictions:
        for result in results:
            out.write((b"," if count else b"") + json.dumps(to_json(result), separators=(",", ":")).encode())
            count += 1
    out.write(b"]")
    return count
