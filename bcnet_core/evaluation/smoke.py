"""A rehearsal: two real steps and one batch of evaluation, in a folder that is gone afterwards."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from bcnet_core.config.schema import Recipe
from bcnet_core.data.loaders import read_annotations
from bcnet_core.engine.elastic import Cluster
from bcnet_core.engine.job import TrainingJob
from bcnet_core.engine.launch import launch
from bcnet_core.evaluation.predict import check_categories, predict_images
from bcnet_core.evaluation.validation import score
from bcnet_core.reporting import Reporter
from bcnet_core.weights.loading import load_detector

STEPS = 2


def rehearse(job: TrainingJob, cluster: Cluster, *, reporter: Reporter) -> dict[str, float]:
    """Train two steps of a job with its own settings, and evaluate the result on as many images as a step has.

    Args:
        job: what is to be trained; nothing is written to its run directory.
        cluster: of one machine.
        reporter: must be picklable when there are several processes.

    Returns:
        The scores; of two steps they mean nothing, except that they can be computed.

    Raises:
        BCNetError: whatever the real run would end with in its first two steps or its evaluation.
    """
    solver = job.recipe.solver.model_copy(
        update={"steps": STEPS, "log_every": 1, "checkpoint_every": STEPS, "eval_every": 0}
    )
    recipe: Recipe = job.recipe.model_copy(update={"solver": solver})
    coco = read_annotations(recipe.data, recipe.data.val)
    with tempfile.TemporaryDirectory(prefix="bcnet-smoke-") as folder:
        short = replace(job, recipe=recipe, run_dir=Path(folder) / "run", resume=False, validation=None)
        detector = load_detector(launch(short, cluster, reporter=reporter), device=job.device)
    check_categories(detector.categories, coco)
    images = coco.images[: solver.batch_size]
    _, image_dir = recipe.data.locate(recipe.data.val)
    results = predict_images(detector, images, image_dir, reporter=reporter)
    return score(coco, results, image_ids=[image["id"] for image in images])
