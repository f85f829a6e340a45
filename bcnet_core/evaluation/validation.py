"""The evaluation in the middle of a training run: COCO scores on the held-out images, every process its share."""

from __future__ import annotations

from collections.abc import Callable

from bcnet_core import distributed as dist
from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.config.schema import Recipe
from bcnet_core.data.loaders import read_annotations
from bcnet_core.engine.job import Validation
from bcnet_core.errors import BCNetError
from bcnet_core.evaluation.coco import evaluate, ground_truth
from bcnet_core.evaluation.predict import check_categories, predict_images, refuse_missing
from bcnet_core.model.detectors import Detector
from bcnet_core.reporting import Reporter


def validate(
    detector: Detector, recipe: Recipe, reporter: Reporter, stopping: Callable[[], bool]
) -> dict[str, float] | None:
    """Score a detector; see `bcnet_core.engine.job.Validation`.

    Returns:
        On rank 0 `mask_AP`, `mask_AP50`, `box_AP` in [0, 1], elsewhere nothing; None where it was stopped.

    Raises:
        BCNetError: if images or masks are missing or cannot be read.
    """
    coco = read_annotations(recipe.data, recipe.data.val)
    _, image_dir = recipe.data.locate(recipe.data.val)
    mine = coco.images[dist.rank() :: dist.world_size()]
    found = predict_images(detector, mine, image_dir, reporter=reporter, stopping=stopping)
    (stopped,) = dist.any_process([stopping()], detector.device)
    if stopped:
        return None
    parts = dist.gather(found)
    if parts is None:
        return {}
    results = [result for part in parts for result in part]
    order = {image["id"]: position for position, image in enumerate(coco.images)}
    results.sort(key=lambda result: order[result["image_id"]])  # so that ties fall as in one process
    return score(coco, results)


def score(coco: CocoFile, results: list[Record], *, image_ids: list[int] | None = None) -> dict[str, float]:
    """`mask_AP`, `mask_AP50`, `box_AP` of COCO results, in [0, 1]; of some images only, where these are given."""
    truth = ground_truth(coco)
    masks, boxes = (evaluate(truth, results, kind, image_ids=image_ids) for kind in ("segm", "bbox"))
    return {"mask_AP": masks.AP, "mask_AP50": masks.AP50, "box_AP": boxes.AP}


def check_validation(recipe: Recipe, training: CocoFile, reporter: Reporter) -> None:
    """Check before the first step that the validation set is complete and goes with the training set.

    Args:
        recipe: recipe whose `data.val` is checked.
        training: training set.
        reporter: receiver of what only a later `bcnet eval` would fail at.

    Raises:
        BCNetError: if the recipe evaluates during training and the set or its images are missing, it has no masks, or
            its categories differ.
    """
    annotations, images = recipe.data.locate(recipe.data.val)
    settings = "data.val.annotations=FILE data.val.images=FOLDER"
    if not recipe.solver.eval_every and not annotations.exists():
        reporter.info(f"there is no validation set at {annotations}, which `bcnet eval` will need: {settings}")
        return
    try:
        coco = read_annotations(recipe.data, recipe.data.val)
        check_categories(training.categories, coco)
        refuse_missing(coco.images, images)
        ground_truth(coco)
    except BCNetError as error:
        if recipe.solver.eval_every:
            raise
        reason = " · ".join((error.message, *error.hints))
        reporter.warning(f"`bcnet eval` will refuse the validation set ({settings}): {reason}")


VALIDATION = Validation(check=check_validation, score=validate)
