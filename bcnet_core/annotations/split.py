"""The occluded subset of a COCO file: COCO-OCC as a rule with a manifest (METHOD section 6).

The author names the images "whose boxes overlap with ratio >= 0.2" but published neither the ratio nor the list, so
every choice is an option here, and a manifest says which ones made a file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from bcnet_core import __version__
from bcnet_core.annotations.coco import CocoFile, Record, checksum, segmentation_rle
from bcnet_core.annotations.occluder import record_boxes
from bcnet_core.annotations.rates import (
    HISTOGRAM_EDGES,
    LEVEL_FROM,
    MEASURES,
    Level,
    count_levels,
    occlusion_rates,
    rate_histogram,
)
from bcnet_core.config.choices import Measure, Pairs
from bcnet_core.errors import data_error, usage_error
from bcnet_core.files.inputs import read_whole
from bcnet_core.files.json_files import read_json

Rates = dict[int, NDArray[np.float64]]
"""The occlusion rates of the instances of every image, by image id."""


@dataclass(frozen=True)
class SplitRule:
    """Which images are occluded.

    Attributes:
        threshold: the rate from which on an instance counts as occluded, above 0 and up to 1.
        measure: what the rate compares: "iou", "min" or "mask" (`occlusion.rates.occlusion_rates`).
        pairs: "any" takes an image in which at least one instance is occluded, "all" one in which every instance
            is.
        same_class: whether only neighbours of the same category occlude.
        crowd: whether crowd annotations are instances too; otherwise they neither occlude nor need a partner.
    """

    threshold: float = 0.2
    measure: Measure = "iou"
    pairs: Pairs = "any"
    same_class: bool = False
    crowd: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise usage_error(f"the occlusion threshold is above 0 and at most 1, not {self.threshold}")
        if self.measure not in MEASURES:
            raise usage_error(f"no measure is called `{self.measure}`", "measures: " + " · ".join(MEASURES))
        if self.pairs not in get_args(Pairs):
            raise usage_error(f"pairs cannot be `{self.pairs}`", "pairs: any · all")


class OccludedSplit(NamedTuple):
    """An occluded subset.

    Attributes:
        content: of the new COCO file.
        manifest: how it was made and what it holds; json.
    """

    content: Record
    manifest: dict[str, Any]


def split_occluded(coco: CocoFile, *, rule: SplitRule, ids: Iterable[int] | None = None) -> OccludedSplit:
    """Take the occluded images of a COCO file with all of their annotations, in the order of the file.

    Args:
        coco: the file; it is not changed, and must still be where it was read from.
        rule: which images are occluded.
        ids: take exactly these images instead; the rule then only measures.

    Returns:
        The content and the manifest; both depend on the arguments alone.

    Raises:
        BCNetError: if one of `ids` is not in the file, or "mask" meets a segmentation that cannot be read.
    """
    rates = measure_images(coco, measure=rule.measure, same_class=rule.same_class, crowd=rule.crowd)
    chosen = _known(ids, coco) if ids is not None else set(occluded_image_ids(rates, rule=rule))
    content = {
        **coco.content,
        "images": [image for image in coco.images if image["id"] in chosen],
        "annotations": [annotation for annotation in coco.annotations if annotation["image_id"] in chosen],
    }
    inside = {image["id"]: rates[image["id"]] for image in content["images"]}
    manifest = {
        "bcnet": __version__,
        "source": {"file": coco.path.name, "sha256": checksum(coco.path)},
        "chosen_by": "rule" if ids is None else "ids",
        "rule": asdict(rule),
        "counts": {
            "split": _counts(CocoFile(coco.path, content), inside, rule),
            "source": _counts(coco, rates, rule),
        },
        "levels": {"from": LEVEL_FROM, "split": _levels(inside), "source": _levels(rates)},
        "histogram": {"edges": list(HISTOGRAM_EDGES), "split": _histograms(inside), "source": _histograms(rates)},
        "image_ids": [image["id"] for image in content["images"]],
    }
    return OccludedSplit(content, manifest)


def measure_images(coco: CocoFile, *, measure: Measure, same_class: bool = False, crowd: bool = False) -> Rates:
    """The occlusion rates of the instances of every image, by image id.

    Args:
        coco: the file.
        measure: what is compared (`occlusion.rates.occlusion_rates`).
        same_class: whether only neighbours of the same category count.
        crowd: whether crowds are instances; otherwise they are left out.

    Raises:
        BCNetError: if `measure` is "mask" and a segmentation cannot be read.
    """
    annotations = coco.annotations_by_image()
    rates = {}
    for image in coco.images:
        instances = [one for one in annotations[image["id"]] if crowd or not one.get("iscrowd", 0)]
        rles = [segmentation_rle(one, image) if measure == "mask" else None for one in instances]
        categories = np.array([one["category_id"] for one in instances]) if same_class else None
        rates[image["id"]] = occlusion_rates(
            record_boxes(instances), rles, image["height"], image["width"], measure=measure, categories=categories
        )
    return rates


def occluded_image_ids(rates: Rates, *, rule: SplitRule) -> list[int]:
    """Return the ids of the images that a rule takes, in the order of the file.

    Args:
        rates: the result of `measure_images` with the measure, `same_class` and `crowd` of the rule.
        rule: which images are occluded.
    """
    enough = any if rule.pairs == "any" else all
    return [image for image, found in rates.items() if len(found) and enough(found >= rule.threshold)]


def read_ids(path: Path) -> list[int]:
    """Read image ids: numbers in a text, a json list, a manifest of `split_occluded`, or the images of a COCO file.

    Raises:
        BCNetError: if the file is missing or holds anything else.
    """
    if path.suffix in {".json", ".gz"}:
        return _ids_of_json(read_json(path), path)
    try:
        if not path.is_file():
            raise data_error(f"`{path}` does not exist, or is no file", "give a list of image ids: --ids FILE")
        words = read_whole(path).decode("utf-8-sig").replace(",", " ").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise data_error(f"cannot read the image ids in `{path}`: {reason}", "one whole number a line") from None
    if not words:
        raise data_error(f"`{path}` holds no image ids", "one whole number a line")
    odd = [word for word in words if not (word.isascii() and word.removeprefix("-").isdigit() and len(word) < 20)]
    if odd:
        raise data_error(f"`{path}` holds {odd[0]!r} where an image id should be", "one whole number a line")
    return [int(word) for word in words]


def _ids_of_json(value: Any, path: Path) -> list[int]:  # noqa: ANN401
    if isinstance(value, dict) and isinstance(value.get("images"), list):
        value = [image.get("id") if isinstance(image, dict) else None for image in value["images"]]
    elif isinstance(value, dict):
        value = value.get("image_ids")
    if not isinstance(value, list) or not value or any(type(one) is not int for one in value):
        raise data_error(
            f"`{path}` holds no image ids", "it can be a list of numbers, a manifest, or a COCO file with `images`"
        )
    return list(value)


def _known(ids: Iterable[int], coco: CocoFile) -> set[int]:
    chosen = set(ids)
    unknown = sorted(chosen - {image["id"] for image in coco.images})
    if unknown:
        some = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise data_error(
            f"{len(unknown):,} of the {len(chosen):,} image ids are not in `{coco.path}`: {some}",
            "is this the list of another file (train2017, val2017)?",
        )
    return chosen


def _counts(coco: CocoFile, rates: Rates, rule: SplitRule) -> dict[str, int]:
    instances = _of_instances(rates)
    return {
        "images": len(coco.images),
        "annotations": len(coco.annotations),
        "instances": len(instances),
        "occluded": int((instances >= rule.threshold).sum()),
    }


def _levels(rates: Rates) -> dict[str, dict[Level, int]]:
    return {"instances": count_levels(_of_instances(rates)), "images": count_levels(_of_images(rates))}


def _histograms(rates: Rates) -> dict[str, list[int]]:
    return {"instances": rate_histogram(_of_instances(rates)), "images": rate_histogram(_of_images(rates))}


def _of_instances(rates: Rates) -> NDArray[np.float64]:
    return np.concatenate([np.zeros(0), *rates.values()])


def _of_images(rates: Rates) -> NDArray[np.float64]:
    """An image is as occluded as the most occluded of its instances."""
    return np.array([found.max(initial=0.0) for found in rates.values()])
