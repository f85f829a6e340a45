"""Opening the data sets of a recipe, and checking before training what would fail later."""

from __future__ import annotations

import math
import shlex
from functools import partial
from pathlib import Path

from bcnet_core.annotations.coco import AMODAL_KEY, CocoFile, Record, read_coco, ways_out
from bcnet_core.annotations.instances import Survey, survey_instances
from bcnet_core.config.data import DataConfig, DatasetConfig
from bcnet_core.config.schema import Recipe
from bcnet_core.data.copy_paste import find_objects, paste_objects
from bcnet_core.data.dataset import TrainingSet
from bcnet_core.data.transforms import training_steps
from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.files.images import read_listed
from bcnet_core.files.workers import map_with_progress
from bcnet_core.reporting import Reporter, SilentReporter

SHOWN = 6
"""Files of a data root that an error names, at most."""
CHUNK = 64
"""Images of one task of a worker."""
BROKEN_SHOWN = 10
"""Broken images that an error names."""


def read_annotations(
    data: DataConfig,
    dataset: DatasetConfig,
    *,
    need_annotations: bool = True,
    check_annotations: bool = True,
    configurable: bool = True,
) -> CocoFile:
    """Read the annotation file of one of a recipe's data sets.

    Args:
        data: section `data` of the recipe.
        dataset: one of its data sets.
        need_annotations: whether a file without annotations is an error.
        check_annotations: whether an invalid annotation is an error, see `read_coco`.
        configurable: whether the command takes settings of the recipe, for the hints of an error.

    Raises:
        BCNetError: if the file does not exist or is not COCO.
    """
    path = require_annotations(data, dataset, configurable=configurable)
    coco = read_coco(path, need_annotations=need_annotations, check_annotations=check_annotations)
    if not coco.images:
        raise data_error(f"`{path}` lists no image")
    return coco


def require_annotations(data: DataConfig, dataset: DatasetConfig, *, configurable: bool = True) -> Path:
    """Return the annotation file of one of a recipe's data sets; see `read_annotations`.

    Raises:
        BCNetError: if it does not exist.
    """
    path, _ = data.locate(dataset)
    if not path.exists():
        raise _missing_annotations(data, dataset, configurable=configurable)
    return path


def _missing_annotations(data: DataConfig, dataset: DatasetConfig, *, configurable: bool) -> BCNetError:
    """Return the error for a missing annotation file, with the files that exist under the data root."""
    if dataset.annotations.is_absolute():
        return data_error(f"the annotation file `{dataset.annotations}` of the recipe does not exist")
    if data.root is None:
        return usage_error(
            f"`{dataset.annotations}` does not exist here, and no data root was given",
            "say where the data is: --data-root DIR, or set BCNET_DATA",
        )
    root, key = data.root, next(name for name in ("train", "val", "test") if getattr(data, name) == dataset)
    if not root.is_dir():
        return data_error(f"the data root `{root}` does not exist", "say where the data is: --data-root DIR")
    files = [str(path.relative_to(root)) for path in sorted(root.glob("*.json")) + sorted(root.glob("*/*.json"))]
    folders = [path.name for path in sorted(root.iterdir()) if path.is_dir() and path.name != "annotations"]
    annotations, images = (_best_match(names, key) for names in (files, folders))
    hints = [f"json files in it: {', '.join(files[:SHOWN]) or 'none'}; folders: {', '.join(folders[:SHOWN]) or 'none'}"]
    if configurable:
        hints.append(
            f"name them: data.{key}.annotations={annotations or 'FILE'} data.{key}.images={images or 'FOLDER'}"
        )
    setting = f", which `data.{key}.annotations` names" if configurable else ""
    return data_error(
        f"the data root `{root}` has no `{dataset.annotations}`{setting}",
        *hints,
        "or choose another data root: --data-root DIR",
    )


def _best_match(names: list[str], key: str) -> str | None:
    """Return the name most likely to belong to the data set `key`, quoted for a shell."""
    found = [name for name in names if key in name]
    return shlex.quote(min(found, key=lambda name: ("instances" not in name, name))) if found else None


def read_truth(
    data: DataConfig,
    dataset: DatasetConfig,
    *,
    reads_wholes: bool = False,
    configurable: bool = True,
    reporter: Reporter | None = None,
) -> CocoFile:
    """Read the annotation file of a data set to score against, and leave out the annotations that cannot be scored.

    These are what a training leaves out, but for crowds and boxes without an extent.

    Args:
        data: section `data` of the recipe.
        dataset: one of its data sets.
        reads_wholes: whether whole masks are scored, so that an instance with an unreadable one cannot be.
        configurable: whether the command takes settings of the recipe, for the hints of an error.
        reporter: is warned of what is left out.

    Raises:
        BCNetError: if the file does not exist, is not COCO, or has annotations none of which can be scored.
    """
    coco = read_annotations(data, dataset, check_annotations=False, configurable=configurable)
    survey = survey_instances(coco, keep=("crowd", "no_extent"), reads_wholes=reads_wholes)
    if survey.omitted:
        sentence, ways = survey.describe("can be scored"), ways_out(coco.path)
        if not survey.coco.annotations:
            raise data_error(f"`{coco.path}`: {sentence}", *ways)
        (reporter or SilentReporter()).warning(f"{sentence}; {ways[0]}")
    return survey.coco


def open_training_set(recipe: Recipe) -> tuple[TrainingSet, CocoFile]:
    """Open a recipe's training set, and read all of its annotations.

    Returns:
        The set, and its annotation file without the annotations that are left out.

    Raises:
        BCNetError: if annotations or images are missing or not usable, or if the recipe asks for what the set has not:
            an instance with an occluder or with a whole mask, or an object to paste.
    """
    data = recipe.data
    coco, folder = read_annotations(data, data.train, check_annotations=False), data.locate(data.train)[1]
    pasting, paste = data.copy_paste, None
    dataset = TrainingSet(
        coco, folder, occluders=data.occluders, amodal=recipe.model.amodal, amodal_boxes=recipe.amodal_boxes,
        complete=pasting.probability > 0,
    )  # fmt: skip
    survey = dataset.survey
    dataset.check_images()
    if pasting.probability:
        dataset.pasted = find_objects(survey.coco, folder, reads_wholes=dataset.reads_wholes)
        paste = partial(
            paste_objects, objects=dataset.pasted, probability=pasting.probability, most=pasting.objects,
            overlap=pasting.overlap, scale=pasting.scale, mirror=data.flip,
        )  # fmt: skip
    elif recipe.trains_occluders and not data.allow_no_occluders and dataset.occluder_share == 0:
        hints = ["derive occluders from the masks: data.occluders=derive"] if dataset.reads_occluders else []
        hints += ["paste objects over each other: data.copy_paste.probability=0.5"]
        hints += ["leave layer 1 out: model.layers=1", "or train it all the same: data.allow_no_occluders=true"]
        fault = f"no instance in `{survey.coco.path}` has an occluder, so layer 1 has nothing to learn"
        if not survey.is_complete:  # what was left out may be what hides the others
            fault, hints = f"{fault}: {survey.describe('train')}", list(ways_out(survey.coco.path))
        raise data_error(fault, *hints)
    if dataset.reads_wholes and not dataset.whole_counts.known:
        raise _no_whole_mask(recipe, survey)
    dataset.steps = training_steps(data, paste=paste)
    return dataset, survey.coco


def _no_whole_mask(recipe: Recipe, survey: Survey) -> BCNetError:
    """Return the error for a set without a whole mask though the recipe trains on them."""
    hints = [
        "import a set that has them, such as KINS or COCOA: bcnet data import SOURCE -o ROOT",
        "draw or compose one: bcnet synth shapes, bcnet synth paste",
    ]
    if not recipe.data.copy_paste.probability:
        hints.append("hide parts of instances that are whole: data.copy_paste.probability=0.5")
    settings = ["model.amodal=false"] * recipe.model.amodal + ["data.boxes=visible"] * (recipe.data.boxes == "amodal")
    hints.append(f"or train without: {' '.join(settings)}")
    fault = (
        f"no instance in `{survey.coco.path}` has a whole mask (`{AMODAL_KEY}`), so there is no hidden part to learn"
    )
    if not survey.is_complete:
        fault, hints = f"{fault}: {survey.describe('train')}", [*ways_out(survey.coco.path), *hints]
    return data_error(fault, *hints)


def scan_images(coco: CocoFile, image_dir: Path, *, workers: int, reporter: Reporter) -> None:
    """Read every image that a file lists, as training does.

    Args:
        coco: annotations or a list of images.
        image_dir: folder of the images.
        workers: number of processes; 0 takes one per CPU core.
        reporter: reports the progress.

    Raises:
        BCNetError: if images are missing, damaged, of more than 8 bits, or of another size than in the file.
    """
    count = len(coco.images)
    with map_with_progress(
        partial(_fault, image_dir), coco.images, title=f"scanning {image_dir.name}", count=count, chunk=CHUNK,
        workers=workers, most=math.ceil(count / CHUNK), reporter=reporter,
    ) as found:  # fmt: skip
        faults = [fault for fault in found if fault is not None]
    if faults:
        raise data_error(
            f"{len(faults):,} of the {len(coco.images):,} images in `{coco.path}` cannot be used",
            *faults[:BROKEN_SHOWN],
            *([f"and {len(faults) - BROKEN_SHOWN:,} more"] if len(faults) > BROKEN_SHOWN else []),
            "replace these files, or drop them from the json",
        )


def _fault(image_dir: Path, image: Record) -> str | None:
    """Return why an image cannot be read, None if it can."""
    try:
        read_listed(image_dir, image)
    except BCNetError as error:
        return error.message
    return None
