"""What the bilayer head costs: the same detector with both layers and with the plain mask head, side by side."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bcnet_core import masks
from bcnet_core.config.schema import ModelConfig, Recipe
from bcnet_core.data.crops import MaskCrops, crop_rles
from bcnet_core.data.dataset import Targets
from bcnet_core.engine.dist import choose_device
from bcnet_core.model.detectors import Detector, build_detector
from bcnet_core.model.mask_branch import MASK_SIZE
from bcnet_core.model.rois import jittered_rois
from bcnet_core.model.targets import bilayer_targets

PLAIN = {"layers": 1, "attention": False, "boundary": False}
"""Settings of the mask head that make it torchvision's."""
CATEGORIES = [{"id": index + 1, "name": f"class {index + 1}"} for index in range(80)]


@dataclass(frozen=True)
class Workload:
    """What is timed: `images` images of `height` x `width` pixels with `instances` instances each."""

    height: int
    width: int
    images: int
    instances: int
    repeats: int
    device: str


@dataclass(frozen=True)
class ModelCosts:
    """Medians in seconds, peak memory in bytes, of the plain head and of the bilayer head (in this order)."""

    step: tuple[float, float]
    inference: tuple[float, float]
    memory: tuple[int, int]
    targets: float

    @property
    def target_share(self) -> float:
        """Building the targets of both layers as a share of the bilayer step."""
        return self.targets / self.step[1]


def bench_model(model: ModelConfig, work: Workload) -> ModelCosts:
    """Time one detector with both heads, alternately.

    Args:
        model: the detector; its mask RoIs are taken to be jittered ground truth, so that both heads see the same, and
            every image has `detections_per_image` detections.
        work: what is timed.

    Returns:
        The costs.
    """
    device = choose_device(work.device)
    detectors = [_build(model, plain=plain).to(device) for plain in (True, False)]
    images, targets = _batch(work)
    wanted = [one.to(device) for one in targets]
    seeds = list(range(work.images))
    rois = jittered_rois(wanted, seeds, most=model.mask_rois_per_image)
    steps = _alternate([_step(detector, images, wanted) for detector in detectors], work.repeats, device)
    build = _alternate([lambda: bilayer_targets(wanted, rois, size=MASK_SIZE)], work.repeats, device)
    inference = _alternate([_inference(detector, images) for detector in detectors], work.repeats, device)
    memory = [_peak_memory(model, work, plain=plain) for plain in (True, False)]
    return ModelCosts((steps[0], steps[1]), (inference[0], inference[1]), (memory[0], memory[1]), build[0])


def _build(model: ModelConfig, *, plain: bool) -> Detector:
    torch.manual_seed(0)
    settings = {**model.model_dump(), "mask_proposals": "jittered", "score_threshold": 0.0, **(PLAIN if plain else {})}
    return build_detector(Recipe(model=ModelConfig.model_validate(settings)), CATEGORIES)


def _batch(work: Workload) -> tuple[list[Tensor], list[Targets]]:
    """Noise with rectangular instances, the left half of each occluded."""
    draw = np.random.default_rng(0)
    images, targets = [], []
    for _ in range(work.images):
        pixels = draw.integers(0, 256, (3, work.height, work.width), dtype=np.uint8)
        images.append(torch.from_numpy(pixels))
        size = draw.uniform(0.05, 0.4, (work.instances, 2)) * (work.width, work.height)
        corner = draw.uniform(0, 1, (work.instances, 2)) * ((work.width, work.height) - size)
        boxes = np.concatenate([corner, corner + size], axis=1)
        layers = [_rectangles(part, work) for part in (boxes, boxes * (1, 1, 0.5, 1) + boxes[:, [0]] * (0, 0, 0.5, 0))]
        labels = torch.from_numpy(draw.integers(0, len(CATEGORIES), work.instances))
        placement = torch.tensor([1.0, 0, 1, 0])
        targets.append(Targets(torch.from_numpy(boxes).float(), labels, layers[0], layers[1], placement))
    return images, targets


def _rectangles(boxes: NDArray[np.float64], work: Workload) -> MaskCrops:
    rles = []
    for x0, y0, x1, y1 in boxes.astype(int):
        mask = np.zeros((work.height, work.width), bool)
        mask[y0 : y1 + 1, x0 : x1 + 1] = True
        rles.append(masks.encode(mask))
    return crop_rles(rles)


def _step(detector: Detector, images: list[Tensor], targets: list[Targets]) -> Callable[[], object]:
    """The forward and backward pass of a training step."""

    def step() -> None:
        detector.train()
        losses = detector(images, targets, list(range(len(images))))
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        detector.zero_grad()

    return step


def _inference(detector: Detector, images: list[Tensor]) -> Callable[[], object]:
    pictures = [image.permute(1, 2, 0).numpy() for image in images]

    def infer() -> object:
        return detector.eval().predict(pictures, resize=False)

    return infer


def _alternate(calls: list[Callable[[], object]], repeats: int, device: torch.device) -> list[float]:
    """The median seconds of each call; they take turns, after one round to warm up."""
    seconds: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, spent in zip(calls, seconds, strict=True):
            _finish(device)
            start = time.perf_counter()
            call()
            _finish(device)
            if repeat:
                spent.append(time.perf_counter() - start)
    return [median(spent) for spent in seconds]


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak_memory(model: ModelConfig, work: Workload, *, plain: bool) -> int:
    """The peak of a process that does nothing but one training step: of the GPU, or of the process itself."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure_memory, model, work, plain).result()


def _measure_memory(model: ModelConfig, work: Workload, plain: bool) -> int:  # noqa: FBT001  (a pool passes positions)
    device = choose_device(work.device)
    images, targets = _batch(work)
    _step(_build(model, plain=plain).to(device), images, [one.to(device) for one in targets])()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # where it does, ru_maxrss begins at that of the parent process
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
