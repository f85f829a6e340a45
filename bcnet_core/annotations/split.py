"""Take the occluded subset of a COCO file: COCO-OCC as a rule with a manifest (METHOD section 6).

The author selects the images "whose boxes overlap with ratio >= 0.2" but published neither the ratio nor the list, so
every choice is an option here, and the manifest of a split records the choices that made it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import pairwise
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
    count_levels,
    occlusion_rates,
    rate_histogram,
)  # fmt: skip
from bcnet_core.config.choices import Measure, Pairs
from bcnet_core.errors import data_error, usage_error
from bcnet_core.files.json_files import read_json, read_whole

Rates = dict[int, NDArray[np.float64]]
"""Occlusion rates of the instances of every image, by image id."""


@dataclass(frozen=True)
class SplitRule:
    """Rule that decides which images are occluded.

    Attributes:
        threshold: rate from which on an instance counts as occluded, above 0 and up to 1.
        measure: measure of the rate: "iou", "min" or "mask" (`rates.occlusion_rates`).
        pairs: "any" takes images with at least one occluded instance, "all" images in which every instance is occluded.
        same_class: whether only neighbors of the same category occlude.
        crowd: whether crowd annotations are instances too; otherwise they neither occlude nor are occluded.
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
    """The content of a new COCO file, and a json that says how it was made and what it holds."""

    content: Record
    manifest: dict[str, Any]


def split_occluded(coco: CocoFile, *, rule: SplitRule, ids: Iterable[int] | None = None) -> OccludedSplit:
    """Take the occluded images of a COCO file with all of their annotations, in file order.

    With `ids`, take exactly these images; the rule then only measures. The path of the file must still exist.

    Raises:
        BCNetError: if one of `ids` is not in the file, or "mask" meets a segmentation that cannot be read.
    """
    rates = measure_images(coco, measure=rule.measure, same_class=rule.same_class, crowd=rule.crowd)
    chosen = _check_known(ids, coco) if ids is not None else set(occluded_image_ids(rates, rule=rule))
    content = {
        **coco.content,
        "images": [image for image in coco.images if image["id"] in chosen],
        "annotations": [annotation for annotation in coco.annotations if annotation["image_id"] in chosen],
    }
    manifest = {
        "bcnet": __version__,
        "source": {"file": coco.path.name, "sha256": checksum(coco.path)},
        "chosen_by": "rule" if ids is None else "ids",
        "rule": asdict(rule),
        **_statistics({"split": CocoFile(coco.path, content), "source": coco}, rates, rule),
        "image_ids": [image["id"] for image in content["images"]],
    }
    return OccludedSplit(content, manifest)


def _statistics(parts: dict[str, CocoFile], rates: Rates, rule: SplitRule) -> Record:
    """Return the counts, levels and histograms of the source and of the split."""
    counts: Record = {}
    levels: Record = {"from": LEVEL_FROM}
    histogram: Record = {"edges": list(HISTOGRAM_EDGES)}
    for name, part in parts.items():
        found = [rates[image["id"]] for image in part.images]
        instances = np.concatenate([np.zeros(0), *found])
        images = np.array([one.max(initial=0.0) for one in found])  # an image counts as its most occluded instance
        counts[name] = {
            "images": len(part.images),
            "annotations": len(part.annotations),
            "instances": len(instances),
            "occluded": int((instances >= rule.threshold).sum()),
        }
        levels[name] = {"instances": count_levels(instances), "images": count_levels(images)}
        histogram[name] = {"instances": rate_histogram(instances), "images": rate_histogram(images)}
    return {"counts": counts, "levels": levels, "histogram": histogram}


def measure_images(coco: CocoFile, *, measure: Measure, same_class: bool = False, crowd: bool = False) -> Rates:
    """Return the occlusion rates of the instances of every image, by image id, in file order.

    The options are those of `SplitRule`.

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
    """Return the ids of the images that a rule takes, by the rates that `measure_images` found with its options."""
    enough = any if rule.pairs == "any" else all
    return [image for image, found in rates.items() if len(found) and enough(found >= rule.threshold)]


def read_ids(path: Path) -> list[int]:
    """Read image ids from a text file, a json list, a manifest of `split_occluded`, or a COCO file.

    Raises:
        BCNetError: if the file is missing or holds anything else.
    """
    if path.suffix in {".json", ".gz"}:
        return _ids_from_json(read_json(path), path)
    try:
        if not path.is_file():
            raise data_error(f"`{path}` does not exist or is not a file", "give a list of image ids: --ids FILE")
        words = read_whole(path).decode("utf-8-sig").replace(",", " ").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise data_error(f"cannot read the image ids in `{path}`: {reason}", "one whole number a line") from None
    bad = [word for word in words if not re.fullmatch("-?[0-9]{1,19}", word)]
    if bad or not words:
        found = f"{bad[0]!r} where an image id should be" if bad else "no image ids"
        raise data_error(f"`{path}` holds {found}", "one whole number a line")
    return list(map(int, words))


def _ids_from_json(value: Any, path: Path) -> list[int]:  # noqa: ANN401
    if isinstance(value, dict) and isinstance(value.get("images"), list):
        value = [image.get("id") if isinstance(image, dict) else None for image in value["images"]]
    elif isinstance(value, dict):
        value = value.get("image_ids")
    if not isinstance(value, list) or not value or any(type(one) is not int for one in value):
        raise data_error(
            f"`{path}` holds no image ids", "it can be a list of numbers, a manifest, or a COCO file with `images`"
        )
    return list(value)


def _check_known(ids: Iterable[int], coco: CocoFile) -> set[int]:
    chosen = set(ids)
    unknown = sorted(chosen - {image["id"] for image in coco.images})
    if unknown:
        some = ", ".join(map(str, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        raise data_error(
            f"{len(unknown):,} of the {len(chosen):,} image ids are not in `{coco.path}`: {some}",
            "is this the list of another file (train2017, val2017)?",
        )
    return chosen


def plot_histogram(manifest: dict[str, Any]) -> bytes:
    """Plot the occlusion in a manifest as a PNG, source beside split; equal manifests give equal bytes."""
    from matplotlib.figure import Figure  # slow to import, and rarely needed

    histogram, rule = manifest["histogram"], manifest["rule"]
    bins = ["0", *(f"{low:g}-{high:g}" for low, high in pairwise(histogram["edges"]))]
    figure = Figure(figsize=(11, 4.2), dpi=120, layout="constrained")
    for axes, unit in zip(figure.subplots(1, 2), ("instances", "images"), strict=True):
        # gray and blue are distinguishable in print and with any color vision
        for offset, part, color in ((-0.2, "source", "#bbbbbb"), (0.2, "split", "#0077bb")):
            axes.bar(np.arange(len(bins)) + offset, histogram[part][unit], 0.4, color=color, label=part)
        axes.set_title(f"{sum(histogram['source'][unit]):,} {unit}, {sum(histogram['split'][unit]):,} in the split")
        axes.set_xticks(range(len(bins)), bins, rotation=45, ha="right")
        axes.set_xlabel(f"occlusion ({rule['measure']})" + (" of the most occluded instance" * (unit == "images")))
        axes.set_ylabel(unit)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"Occlusion of instances and images: {manifest['source']['file']}", parse_math=False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    picture = BytesIO()
    figure.savefig(picture, format="png", metadata={"Software": None})
    return picture.getvalue()
