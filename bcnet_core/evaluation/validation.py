"""Evaluation during a training run, and the rehearsal of a whole run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from bcnet_core import distributed as dist
from bcnet_core.annotations.coco import CocoFile, Record
from bcnet_core.annotations.crowding import detections_to_count
from bcnet_core.config.data import DataConfig
from bcnet_core.config.schema import Recipe
from bcnet_core.data.loaders import read_truth
from bcnet_core.engine.elastic import Cluster
from bcnet_core.engine.launch import launch
from bcnet_core.engine.state import TrainingJob, Validation
from bcnet_core.errors import BCNetError, data_error
from bcnet_core.evaluation.coco import evaluate, ground_truth
from bcnet_core.evaluation.inputs import check_categories
from bcnet_core.evaluation.predict import predict_images
from bcnet_core.files.images import check_images
from bcnet_core.model.detectors import Detector
from bcnet_core.reporting import Reporter
from bcnet_core.weights.loading import read_trained

REHEARSED_STEPS = 2
ANOTHER_SET = "data.val.annotations=FILE data.val.images=FOLDER"
"""Settings that choose the validation set, for messages."""


def validate(
    detector: Detector, recipe: Recipe, reporter: Reporter, stopping: Callable[[], bool]
) -> dict[str, float] | None:
    """Score a detector on the validation set, every process its share; see `bcnet_core.engine.state.Validation`.

    Returns:
        On rank 0 `mask_AP`, `mask_AP50`, `box_AP` in [0, 1], an empty dict on other ranks; None if it was stopped.

    Raises:
        BCNetError: if images or masks are missing or cannot be read.
    """
    coco = read_truth(recipe.data, recipe.data.val)
    _, image_dir = recipe.data.locate(recipe.data.val)
    share = coco.images[dist.rank() :: dist.world_size()]
    found = predict_images(detector, share, image_dir, reporter=reporter, stopping=stopping)
    (stopped,) = dist.any_process([stopping()], detector.device)
    if stopped:
        return None
    parts = dist.gather(found)
    if parts is None:
        return {}
    results = [result for part in parts for result in part]
    order = {image["id"]: position for position, image in enumerate(coco.images)}
    results.sort(key=lambda result: order[result["image_id"]])  # ties are broken as in one process
    return _score(coco, results, recipe)


def _score(
    coco: CocoFile, results: Sequence[Record], recipe: Recipe, *, image_ids: Sequence[int] | None = None
) -> dict[str, float]:
    """Return `mask_AP`, `mask_AP50` and `box_AP` of results, in [0, 1], over all images or over those given."""
    truth, counted = ground_truth(coco), detections_to_count(recipe.model.most_detections)
    masks, boxes = (
        evaluate(truth, results, kind, image_ids=image_ids, max_dets=counted).scores for kind in ("segm", "bbox")
    )
    return {"mask_AP": masks.AP, "mask_AP50": masks.AP50, "box_AP": boxes.AP}


def check_validation(
    data: DataConfig, categories: Sequence[Record], eval_every: int, reporter: Reporter
) -> CocoFile | None:
    """Check before the first step that the validation set can be scored with a detector of these categories.

    Without evaluations during training the set, or its images, may be missing: that is reported. A set that a later
    `bcnet eval` would refuse is an error all the same.

    Returns:
        The set, or None if it is missing.

    Raises:
        BCNetError: if the set cannot be read, has no masks or new categories; with `eval_every`, also if images are
            missing, or there is nothing to score.
    """
    annotations, images = data.locate(data.val)
    if not eval_every and not annotations.exists():
        reporter.info(f"there is no validation set at {annotations}, which `bcnet eval` will need: {ANOTHER_SET}")
        return None
    try:
        coco = read_truth(data, data.val, reporter=reporter)
        check_categories(categories, coco)
        truth = ground_truth(coco)
    except BCNetError as error:
        skip = () if eval_every else ("or train without a validation set: data.val.annotations=none",)
        raise BCNetError(error.message, *error.hints, f"name another: {ANOTHER_SET}", *skip,
                         exit_code=error.exit_code) from None  # fmt: skip
    try:
        check_images(coco.images, images)
    except BCNetError as error:
        if eval_every:
            raise
        reporter.warning(f"`bcnet eval` will refuse the validation set ({ANOTHER_SET}): {error.message}")
    if eval_every and evaluate(truth, [], "segm").scores.AP < 0:
        raise data_error(
            f"`{annotations}` has no instance to score, and solver.eval_every is {eval_every}",
            f"name another: {ANOTHER_SET}",
            "or train without evaluations: solver.eval_every=0",
        )
    return coco


VALIDATION = Validation(check=check_validation, score=validate)


def rehearse(job: TrainingJob, cluster: Cluster, *, reporter: Reporter) -> dict[str, float]:
    """Train two steps with a job's own settings in a temporary folder, and evaluate one batch of images.

    Returns:
        The scores. After two steps they mean nothing; that they can be computed is the point.

    Raises:
        BCNetError: whatever would end the real run in its first two steps or its evaluation.
    """
    update: dict[str, object] = {"steps": REHEARSED_STEPS, "log_every": 1, "checkpoint_every": REHEARSED_STEPS}
    update |= {"epochs": None, "min_steps": 0, "eval_every": 0, "eval_epochs": None, "patience": 0, "milestones": ()}
    solver = job.recipe.solver.model_copy(update=update)
    recipe: Recipe = job.recipe.model_copy(update={"solver": solver})
    coco = read_truth(recipe.data, recipe.data.val, reporter=reporter)
    with tempfile.TemporaryDirectory(prefix="bcnet-smoke-") as folder:
        short = replace(job, recipe=recipe, run_dir=Path(folder) / "run", resume=False, validation=None)
        detector = read_trained(launch(short, cluster, reporter=reporter)).build(job.device)
    check_categories(detector.categories, coco)
    images = coco.images[: solver.batch_size]
    _, image_dir = recipe.data.locate(recipe.data.val)
    results = predict_images(detector, images, image_dir, reporter=reporter)
    return _score(coco, results, recipe, image_ids=[image["id"] for image in images])
