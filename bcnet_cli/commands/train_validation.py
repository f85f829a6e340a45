"""What `bcnet train --dry-run` and `--scan-images` look at beside the training set: the validation set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bcnet_cli import console
from bcnet_cli.reporter import ConsoleReporter

if TYPE_CHECKING:
    from bcnet_core.annotations.coco import CocoFile
    from bcnet_core.config.schema import DataConfig, Recipe


def scan(recipe: Recipe, workers: int) -> None:
    """Open every image of the training set, and of the validation set where it is there."""
    from bcnet_core.data.loaders import read_annotations
    from bcnet_core.data.scan import scan_images

    data, under_way = recipe.data, recipe.solver.eval_every > 0
    training = read_annotations(data, data.train)
    held_out = read_annotations(data, data.val) if under_way else compare_validation(recipe, training)
    sets = [(data.train, training)]
    if held_out is not None and (under_way or _has_images(data)):
        sets.append((data.val, held_out))
    for dataset, coco in sets:
        scan_images(coco, data.locate(dataset)[1], workers=workers, reporter=ConsoleReporter())
        console.err.print(
            f"{len(coco.images):,} images of {dataset.annotations} can be read, at the size they should have"
        )


def compare_validation(recipe: Recipe, training: CocoFile) -> CocoFile | None:
    """Say what `bcnet eval` would fail at, which training does not need.

    Returns:
        The validation set, without a promise that it has annotations; None where there is none.
    """
    from bcnet_core.annotations.coco import category_difference
    from bcnet_core.data.loaders import read_annotations

    path, _ = recipe.data.locate(recipe.data.val)
    if not path.exists():
        console.err.print(
            f"there is no validation set at {path}; training goes without, `bcnet eval` will need one: "
            "data.val.annotations=FILE data.val.images=FOLDER"
        )
        return None
    held_out = read_annotations(recipe.data, recipe.data.val, need_annotations=False)
    difference = category_difference(training.categories, held_out.categories)
    if difference is not None:
        sides = ", ".join(
            f"only in `{coco.path}`: " + (f"`{only[0][1]}` (id {only[0][0]})" if only else "nothing")
            for coco, only in zip((training, held_out), difference, strict=True)
        )
        ConsoleReporter().warning(
            f"training and validation set have other categories ({sides}); training goes on, `bcnet eval` will "
            "refuse that validation set: data.val.annotations=FILE"
        )
    return held_out


def _has_images(data: DataConfig) -> bool:
    """Whether the folder of the validation images is there; said where it is not."""
    folder = data.locate(data.val)[1]
    if not folder.is_dir():
        console.err.print(f"the validation images are not in {folder}, so they are not scanned; `bcnet eval` will need "
                          "them: data.val.images=FOLDER")  # fmt: skip
    return folder.is_dir()
