"""Does the method work? The bilayer head, its ablations and plain heads: same detector, same data, several seeds.

Every trial trains `recipes/shapes.yaml` with other settings of the mask head, and is measured on the same held-out
scenes. A trial that was measured is never repeated, and one that was cut off goes on where it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bcnet_core.annotations.coco import Record, read_coco
from bcnet_core.config.load import load_recipe
from bcnet_core.engine.checkpoint import latest_checkpoint, load_detector
from bcnet_core.engine.job import TrainingJob
from bcnet_core.engine.loop import run_training
from bcnet_core.errors import usage_error
from bcnet_core.evaluation.coco import evaluate, ground_truth
from bcnet_core.evaluation.predict import predict_images
from bcnet_core.evaluation.true_boxes import score_true_boxes
from bcnet_core.occlusion.split import SplitRule, split_occluded
from bcnet_core.outputs import write_json
from bcnet_core.reporting import Reporter, SilentReporter
from bcnet_core.synth.paste import PasteRule
from bcnet_core.synth.plan import plan_pasted
from bcnet_core.synth.sets import PasteRequest, write_pasted, write_shapes
from bcnet_core.workers import mapped


@dataclass(frozen=True)
class Arm:
    """One variant of the mask head.

    Attributes:
        title: for tables.
        overrides: of the recipe.
    """

    title: str
    overrides: tuple[str, ...] = ()


PLAIN = ("model.layers=1", "model.attention=false", "model.boundary=false")
ARMS = {
    "bilayer": Arm("bilayer"),
    "no_occluder_loss": Arm("bilayer, no occluder loss", ("loss.occluder_mask=0", "loss.occluder_boundary=0")),
    "no_boundary": Arm("bilayer, no boundary", ("model.boundary=false",)),
    "fcn": Arm("bilayer, FCN for GCN", ("model.attention=false",)),
    "single_layer": Arm("single layer", ("model.layers=1",)),
    "plain": Arm("plain, 4 convs", PLAIN),
    "plain_deep": Arm(
        "plain, depth and parameters of bilayer", (*PLAIN, "model.mask_convs=8", "model.mask_channels=72")
    ),
}
"""The first is what the others are compared with."""
REFERENCE = next(iter(ARMS))


@dataclass(frozen=True)
class DataPlan:
    """How large the sets are.

    Attributes:
        scenes: to train on.
        held_out: to measure on.
        source: a COCO file to paste objects of, None for no pasted set.
        images: the folder of its images.
    """

    scenes: int = 2000
    held_out: int = 400
    source: Path | None = None
    images: Path | None = None


class Trial(NamedTuple):
    """One training.

    Attributes:
        data: the name of the set.
        arm: key of `ARMS`.
        seed: of weights, order and augmentation.
        steps: of the optimiser.
        matched: whether the number of steps is that which takes the reference's time.
    """

    data: str
    arm: str
    seed: int
    steps: int
    matched: bool = False

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.arm}{'-time' * self.matched}-{self.seed}"


def prepare_data(folder: Path, plan: DataPlan, *, reporter: Reporter) -> dict[str, tuple[Path, str, str]]:
    """Make the sets that are not there yet.

    Returns:
        Of each set: its data root, and the names of its training and held-out splits.
    """
    found = {}
    for name in ("easy", "hard"):
        root = folder / "data" / name
        if not root.exists():
            write_shapes(root, images=plan.scenes, val_images=plan.held_out, hard=name == "hard", reporter=reporter)
        found[name] = (root, "train", "val")
    if plan.source is not None:
        root = folder / "data" / "pasted"
        if not root.exists():
            assert plan.images is not None
            pasted = plan_pasted(read_coco(plan.source), plan.images, min_area=256, most_objects=5000, seed=0)
            request = PasteRequest(plan.scenes, plan.held_out, (128, 128), 0)
            write_pasted(root, pasted, request, rule=PasteRule(), reporter=reporter)
        found["pasted"] = (root, "train2017", "val2017")
    return found


def plan_trials(data: Sequence[str], seeds: int, steps: int) -> list[Trial]:
    """The trials of equal steps, seed by seed, so that what is there first can be compared."""
    return [Trial(name, arm, seed, steps) for seed in range(seeds) for name in data for arm in ARMS]


def plan_matched(data: Sequence[str], seeds: int, steps: int, costs: dict[str, float]) -> list[Trial]:
    """The trials of equal time: of the heads without a second layer, which are cheaper a step."""
    return [
        Trial(name, arm, seed, round(steps * costs[REFERENCE] / costs[arm]), matched=True)
        for seed in range(seeds)
        for name in data
        for arm in ("single_layer", "plain", "plain_deep")
    ]


def run_trials(
    folder: Path,
    trials: Sequence[Trial],
    data: dict[str, tuple[Path, str, str]],
    *,
    workers: int,
    device: str,
    reporter: Reporter,
) -> None:
    """Train and measure what is not there yet.

    Raises:
        BCNetError: if a training fails.
    """
    missing = [trial for trial in trials if not result_path(folder, trial).exists()]
    work = partial(_run_trial, folder, data, device)
    with reporter.progress("trials", len(missing)) as progress:
        with mapped(work, missing, workers=workers, most=len(missing)) as done:
            for note in done:
                progress.advance(note=note)


def result_path(folder: Path, trial: Trial) -> Path:
    """Where the measures of a trial are."""
    return folder / "results" / trial.data / f"{trial.name}.json"


def _run_trial(folder: Path, data: dict[str, tuple[Path, str, str]], device: str, trial: Trial) -> str:
    """Train, measure, write; returns a word on it."""
    if device == "cpu":
        torch.set_num_threads(1)  # the sum of a tensor depends on their number
    root, train, val = data[trial.data]
    overrides = [
        f"seed={trial.seed}", f"solver.steps={trial.steps}", "data.workers=0",
        f"data.train.annotations=annotations/instances_{train}.json", f"data.train.images={train}",
        f"data.val.annotations=annotations/instances_{val}.json", f"data.val.images={val}",
        *ARMS[trial.arm].overrides,
    ]  # fmt: skip
    run_dir = folder / "runs" / trial.data / trial.name
    job = TrainingJob(
        recipe=load_recipe("shapes", overrides, data_root=root),
        run_dir=run_dir,
        device=device,
        command="bcnet bench evidence",
        resume=latest_checkpoint(run_dir) is not None,
    )
    started = time.perf_counter()
    checkpoint = run_training(job, SilentReporter())
    result = {**trial._asdict(), "seconds": time.perf_counter() - started, **measure(checkpoint, root, val, device)}
    write_json(result_path(folder, trial), result)
    return f"{trial.data} {trial.name}: IoU {np.nanmean(result['occludee']):.4f}, AP {result['mask_AP']:.3f}"


def measure(checkpoint: Path, root: Path, split: str, device: str) -> Record:
    """Every measure of a trained detector on a held-out split."""
    detector = load_detector(checkpoint, device=device)
    coco = read_coco(root / "annotations" / f"instances_{split}.json")
    scores = score_true_boxes(detector, coco, root / split, reporter=SilentReporter())
    results = predict_images(detector, coco.images, root / split, reporter=SilentReporter())
    truth = ground_truth(coco)
    occluded = [image["id"] for image in split_occluded(coco, rule=SplitRule()).content["images"]]
    return {
        "mask_AP": evaluate(truth, results, "segm").AP,
        "box_AP": evaluate(truth, results, "bbox").AP,
        "occluded_mask_AP": evaluate(truth, results, "segm", image_ids=occluded).AP,
        "head_parameters": sum(parameter.numel() for parameter in detector.heads.masks.parameters()),
        **{name: np.round(values, 5).tolist() for name, values in scores._asdict().items()},
    }
