"""What the bilayer head costs: the same detector with it and with torchvision's plain mask head, side by side."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.resnet import BasicBlock, Bottleneck

from bcnet_core import masks
from bcnet_core.config.schema import ModelConfig, Recipe
from bcnet_core.data.dataset import Targets
from bcnet_core.distributed import choose_device
from bcnet_core.engine.logging import peak_memory
from bcnet_core.masks.crops import MaskCrops, crop_rles
from bcnet_core.model.backbones import TinyBackbone
from bcnet_core.model.detectors import Detector, build_detector
from bcnet_core.model.mask_branch import MASK_SIZE
from bcnet_core.model.one_stage import OneStageHeads
from bcnet_core.model.rois import jittered_rois
from bcnet_core.model.targets import bilayer_targets
from benchmarks.memory import in_fresh_process

Autocast = Literal["off", "bf16", "fp16"]

CANDIDATES = 1000
"""Boxes of an image that are sure enough, before NMS."""
PIXEL_DEVIATION = 58.0
"""Of pixel values in pictures, about."""
M_MMAP_THRESHOLD = -3
"""glibc's name of the setting from which size on freed memory goes back to the system at once."""
CATEGORIES = [{"id": index + 1, "name": f"class {index + 1}"} for index in range(80)]


class PlainMaskHead(nn.Module):
    """torchvision's mask head of Mask R-CNN, for one mask of no class, where ours would be.

    Args:
        channels: of the RoI features.
    """

    outputs = ("occludee_mask",)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = MaskRCNNHeads(channels, (channels,) * 4, 1)
        self.predictor = MaskRCNNPredictor(channels, channels, 1)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Map (N, channels, S, S) features to (N, 2S, 2S) logits of the instance, and no other map."""
        return {"occludee_mask": self.predictor(self.convs(features))[:, 0]}


@dataclass(frozen=True)
class Workload:
    """What is timed: `images` images of `height` x `width` pixels with `instances` instances each.

    Both heads are run under autocast, or compiled, where that is asked for.
    """

    height: int
    width: int
    images: int
    instances: int
    repeats: int
    device: str
    autocast: Autocast = "off"
    compiled: bool = False


@dataclass(frozen=True)
class ModelCosts:
    """Medians in seconds, peak memory in bytes, of the plain head and of the bilayer head (in this order).

    Attributes:
        step: the forward and backward pass of a training step.
        inference: of one image after the other.
        memory: of a process that does one step.
        targets: building the targets of both layers.
        detections: the instances that were found in each image, on average.
    """

    step: tuple[float, float]
    inference: tuple[float, float]
    memory: tuple[int, int]
    targets: float
    detections: tuple[float, float]

    @property
    def target_share(self) -> float:
        """Building the targets of both layers as a share of the bilayer step."""
        return self.targets / self.step[1]


def bench_model(model: ModelConfig, work: Workload) -> ModelCosts:
    """Time one detector with both heads, alternately.

    Args:
        model: the detector; its mask RoIs are taken to be jittered ground truth, so that both heads see the same, and
            its score threshold so low that an image has `detections_per_image` detections.
        work: what is timed.

    Returns:
        The costs.
    """
    device = choose_device(work.device)
    detectors = [_build(model, work, plain=plain).to(device) for plain in (True, False)]
    images, targets = _batch(work)
    wanted = [one.to(device) for one in targets]
    seeds = list(range(work.images))
    rois = jittered_rois(wanted, seeds, most=model.mask_rois_per_image)
    with _autocast(work, device):
        steps = _alternate([_step(detector, images, wanted) for detector in detectors], work.repeats, device)
        build = _alternate([lambda: bilayer_targets(wanted, rois, size=MASK_SIZE)], work.repeats, device)
        pictures = [image.permute(1, 2, 0).numpy() for image in images]
        for detector in detectors:
            _be_sure_of_some(detector, pictures[0])
        inference = [_inference(detector, pictures) for detector in detectors]
        seconds = _alternate(inference, work.repeats, device)
        found = [infer() / work.images for infer in inference]
    memory = [_peak_memory(model, work, plain=plain) for plain in (True, False)]
    return ModelCosts(
        (steps[0], steps[1]), (seconds[0], seconds[1]), (memory[0], memory[1]), build[0], (found[0], found[1])
    )


def _build(model: ModelConfig, work: Workload, *, plain: bool) -> Detector:
    """A detector whose fresh weights keep the size of what passes through them, as trained ones do."""
    torch.manual_seed(0)
    settings = {**model.model_dump(), "mask_proposals": "jittered"}
    detector = build_detector(Recipe(model=ModelConfig.model_validate(settings)), CATEGORIES)
    if not isinstance(detector.backbone, TinyBackbone):
        detector.backbone.body.bn1.weight.div_(PIXEL_DEVIATION)
    for block in detector.backbone.modules():
        if isinstance(block, BasicBlock | Bottleneck):
            last = block.bn3 if isinstance(block, Bottleneck) else block.bn2
            last.weight.fill_(0.2)
    if plain:
        head = PlainMaskHead(model.channels).to(memory_format=torch.channels_last)
        detector.heads.masks.register_module("head", head)
    if work.compiled:
        detector.heads.masks.head.compile()
    return detector


def _be_sure_of_some(detector: Detector, picture: NDArray[np.uint8]) -> None:
    """Set the score threshold so that `CANDIDATES` pass it in a picture: fresh weights are sure of all or nothing."""
    heads, seen = detector.heads, list[Tensor]()
    layer = heads.boxes.classes if isinstance(heads, OneStageHeads) else heads.roi_heads.box_predictor.cls_score
    hook = layer.register_forward_hook(lambda _, __, logits: seen.append(logits.float()))
    detector.eval().predict([picture], resize=False)
    hook.remove()
    if isinstance(heads, OneStageHeads):
        heads.score_threshold = _threshold([logits.sigmoid() for logits in seen])
    else:
        heads.roi_heads.score_thresh = _threshold([logits.softmax(1)[:, 1:] for logits in seen])


def _threshold(probabilities: list[Tensor]) -> float:
    """What `CANDIDATES` of the probabilities of a picture lie above."""
    scores = torch.cat([part.flatten() for part in probabilities])
    return float(scores.topk(min(CANDIDATES, len(scores))).values[-1]) * 0.999


def _autocast(work: Workload, device: torch.device) -> AbstractContextManager[object]:
    match work.autocast:
        case "off":
            return nullcontext()
        case "bf16":
            return torch.autocast(device.type, torch.bfloat16)
        case "fp16":
            return torch.autocast(device.type, torch.float16)


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


def _inference(detector: Detector, pictures: list[NDArray[np.uint8]]) -> Callable[[], int]:
    """Finding the instances of all pictures; it returns how many there were."""

    def infer() -> int:
        return sum(len(found.scores) for found in detector.eval().predict(pictures, resize=False))

    return infer


def _alternate(calls: Sequence[Callable[[], object]], repeats: int, device: torch.device) -> list[float]:
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
    return in_fresh_process(_measure_memory, model, work, plain)


def _measure_memory(model: ModelConfig, work: Workload, plain: bool) -> int:  # noqa: FBT001  (a pool passes positions)
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):  # else the peak is that of glibc's pools, and another each time
        libc.mallopt(M_MMAP_THRESHOLD, 2**20)
    device = choose_device(work.device)
    images, targets = _batch(work)
    with _autocast(work, device):
        _step(_build(model, work, plain=plain).to(device), images, [one.to(device) for one in targets])()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_memory()
