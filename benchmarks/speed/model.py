"""`python -m benchmarks model`: cost of the bilayer head beside torchvision's plain mask head in the same detector."""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import product
from statistics import median
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.resnet import BasicBlock, Bottleneck

from bcnet_cli import console
from bcnet_cli.options import Device, ImageSize, Json, parse_size
from bcnet_core import masks
from bcnet_core.config.load import load_recipe
from bcnet_core.config.model import ModelConfig
from bcnet_core.config.schema import Recipe
from bcnet_core.data.dataset import Targets
from bcnet_core.distributed import choose_device
from bcnet_core.engine.logging import peak_memory
from bcnet_core.masks.crops import MaskCrops, crop_rles
from bcnet_core.model.backbones import ResNetFPN
from bcnet_core.model.detectors import Detector, build_detector
from bcnet_core.model.losses import bilayer_targets
from bcnet_core.model.one_stage import OneStageHeads
from bcnet_core.model.rois import jittered_rois
from benchmarks.memory import in_fresh_process

Autocast = Literal["off", "bf16", "fp16"]

RELEASE = (
    "model.channels=256", "model.tower_convs=4", "model.mask_rois_per_image=64", "model.attention=true",
    "model.anchor_scale=8", "model.proposals_per_image=1000", "model.candidates_per_level=1000",
    "model.box_rois_per_image=512", "model.box_head_channels=1024",
)  # fmt: skip
"""Size of the release's heads."""
CANDIDATES = 1000
"""Boxes of an image above the score threshold, before NMS."""
PIXEL_DEVIATION = 58.0
"""Approximate standard deviation of pixel values in pictures."""
M_MMAP_THRESHOLD = -3
"""glibc's number of the setting above whose size freed memory returns to the system at once."""
CATEGORIES = [{"id": index + 1, "name": f"class {index + 1}"} for index in range(80)]


class PlainMaskHead(nn.Module):
    """torchvision's mask head of Mask R-CNN with one class-agnostic mask, in place of ours.

    Args:
        channels: channels of the RoI features.
    """

    outputs = ("occludee_mask",)
    roi_size, mask_size = 14, 28

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = MaskRCNNHeads(channels, (channels,) * 4, 1)
        self.predictor = MaskRCNNPredictor(channels, channels, 1)

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Map (N, channels, S, S) features to (N, 2S, 2S) logits of the instance's mask."""
        return {"occludee_mask": self.predictor(self.convs(features))[:, 0]}


class Workload(NamedTuple):
    """A batch of `images` images of `height` x `width` pixels with `instances` instances each, and how it is run."""

    height: int
    width: int
    images: int
    instances: int
    repeats: int
    device: str
    autocast: Autocast = "off"
    compiled: bool = False


def model(
    *,
    detector: Annotated[
        list[str] | None, typer.Option("--detector", help="fcos or faster_rcnn; may be repeated; default both.")
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option("--backbone", help="tiny, r18, r50, r101, x101; may be repeated; default r50."),
    ] = None,
    size: ImageSize = "800x1067",
    images: Annotated[int, typer.Option("--images", min=1, help="Images of a step.")] = 1,
    instances: Annotated[int, typer.Option("--instances", min=1, help="Instances of an image.")] = 10,
    detections: Annotated[int, typer.Option("--detections", min=1, help="Detections of an image in inference.")] = 100,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timed rounds; the median is shown.")] = 5,
    device: Device = "auto",
    autocast: Annotated[Autocast, typer.Option("--autocast", help="Run both heads in this precision.")] = "off",
    compiled: Annotated[bool, typer.Option("--compile", help="Run both heads through torch.compile.")] = False,
    as_json: Json = False,
) -> None:
    """Compare the bilayer head with torchvision's plain mask head in the same detector, side by side in one run.

    Both heads alternate: forward and backward pass of a training step, inference of one image after the other, and the
    peak memory of a process that runs one step. "targets" is the share of the bilayer step that builds the targets.

    **Examples**

    `python -m benchmarks model --backbone r18 --size 256x256`

    `python -m benchmarks model --detector fcos --backbone r50 --backbone r101 --instances 64 --autocast bf16 --json`
    """
    height, width = parse_size(size)
    work = Workload(height, width, images, instances, repeats, device, autocast, compiled)
    title = f"{images} x {size}, {instances} instances, median of {repeats}"
    table, results = console.make_table(title, "", "plain", "bilayer", "ratio"), []
    choices = product(detector or ["fcos", "faster_rcnn"], backbone or ["r50"])
    settings = [(f"model.detector={one}", f"model.backbone={other}") for one, other in choices]
    shared = [*RELEASE, f"model.detections_per_image={detections}"]
    for config in [load_recipe("tiny", [*chosen, *shared]).model for chosen in settings]:
        costs = _measure(config, work)
        results.append({"detector": config.detector, "backbone": config.backbone, **costs})
        for row, (name, unit, digits) in ROWS.items():
            plain, bilayer = (value / unit for value in (costs[name] if name != "targets" else (0, costs[name])))
            values = (f"{plain:.{digits}f}" if plain else "", f"{bilayer:.{digits}f}")
            ratio = f"{bilayer / plain:.2f}" if plain else f"{costs['target_share']:.1%}"
            table.add_row(f"{config.detector} {config.backbone}: {row}", *values, ratio)
        table.add_section()
    console.out.print(json.dumps(results) if as_json else table)


ROWS = {
    "training step, s": ("step", 1, 3),
    "of it targets, s": ("targets", 1, 4),
    "inference, s": ("inference", 1, 3),
    "detections an image": ("detections", 1, 0),
    "peak memory, MB": ("memory", 1e6, 0),
}
"""Rows of the table: key of the costs, unit and digits."""


def _measure(model: ModelConfig, work: Workload) -> dict[str, Any]:
    """Measure one detector with both heads, alternately.

    The mask RoIs are jittered ground truth, so that both heads see the same, and the score threshold is so low that an
    image has `detections_per_image` detections.

    Returns:
        Medians in seconds and peak memory in bytes, each of the plain and of the bilayer head; the share of the bilayer
        step that builds its targets.
    """
    device = choose_device(work.device)
    detectors = [build_model(model, work, plain=plain).to(device) for plain in (True, False)]
    images, targets = make_batch(work)
    wanted = [one.to(device) for one in targets]
    seeds = list(range(work.images))
    rois = jittered_rois(wanted, seeds, most=model.mask_rois_per_image)
    with autocast_to(work, device):
        steps = alternate([_step(detector, images, wanted) for detector in detectors], work.repeats, device)
        build = alternate([lambda: bilayer_targets(wanted, rois, size=model.map_side)], work.repeats, device)
        pictures = [image.permute(1, 2, 0).numpy() for image in images]
        for detector in detectors:
            lower_threshold(detector, pictures[0])
        inference = [_inference(detector, pictures) for detector in detectors]
        seconds = alternate(inference, work.repeats, device)
        found = [infer() / work.images for infer in inference]
    memory = [in_fresh_process(_measure_memory, model, work, plain) for plain in (True, False)]
    return {
        "step": steps, "targets": build[0], "target_share": build[0] / steps[1], "inference": seconds,
        "detections": found, "memory": memory,
    }  # fmt: skip


def build_model(model: ModelConfig, work: Workload, *, plain: bool) -> Detector:
    """Build a detector whose fresh weights keep activations in the range that trained ones have."""
    torch.manual_seed(0)
    settings = {**model.model_dump(), "mask_proposals": "jittered"}
    detector = build_detector(Recipe(model=ModelConfig.model_validate(settings)), CATEGORIES)
    if isinstance(detector.backbone, ResNetFPN):
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


def lower_threshold(detector: Detector, picture: NDArray[np.uint8]) -> None:
    """Set the score threshold so that `CANDIDATES` boxes of a picture pass it; with fresh weights all or none would."""
    heads, seen = detector.heads, list[Tensor]()
    layer = heads.boxes.classes if isinstance(heads, OneStageHeads) else heads.roi_heads.box_predictor.cls_score
    hook = layer.register_forward_hook(lambda _, __, logits: seen.append(logits.float()))
    detector.eval().predict([picture], resize=False)
    hook.remove()
    found = [one.sigmoid() if isinstance(heads, OneStageHeads) else one.softmax(1)[:, 1:] for one in seen]
    scores = torch.cat([one.flatten() for one in found])
    threshold = float(scores.topk(min(CANDIDATES, len(scores))).values[-1]) * 0.999
    heads.suppression = replace(heads.suppression, score_threshold=threshold)


def autocast_to(work: Workload, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a workload is run."""
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return nullcontext() if work.autocast == "off" else torch.autocast(device.type, types[work.autocast])


def make_batch(work: Workload) -> tuple[list[Tensor], list[Targets]]:
    """Make noise with rectangular instances, the left half of each occluded."""
    draw = np.random.default_rng(0)
    images, targets = [], []
    for _ in range(work.images):
        pixels = draw.integers(0, 256, (3, work.height, work.width), dtype=np.uint8)
        images.append(torch.from_numpy(pixels))
        size = draw.uniform(0.05, 0.4, (work.instances, 2)) * (work.width, work.height)
        corner = draw.uniform(0, 1, (work.instances, 2)) * ((work.width, work.height) - size)
        boxes = np.concatenate([corner, corner + size], axis=1)
        left_halves = boxes * (1, 1, 0.5, 1) + boxes[:, [0]] * (0, 0, 0.5, 0)
        layers = [_rectangles(part, work) for part in (boxes, left_halves)]
        labels = torch.from_numpy(draw.integers(0, len(CATEGORIES), work.instances))
        placement = torch.tensor([1.0, 0, 1, 0])
        targets.append(
            Targets(
                torch.from_numpy(boxes).float(), labels, layers[0], layers[1], crop_rles([None] * len(boxes)), placement
            )
        )
    return images, targets


def _rectangles(boxes: NDArray[np.float64], work: Workload) -> MaskCrops:
    whole = boxes.astype(int).tolist()
    return crop_rles([masks.from_box(x0, y0, x1 + 1, y1 + 1, work.height, work.width) for x0, y0, x1, y1 in whole])


def _step(detector: Detector, images: list[Tensor], targets: list[Targets]) -> Callable[[], object]:
    """Return a function that runs the forward and backward pass of a training step."""

    def step() -> None:
        detector.train()
        losses = detector(images, targets, list(range(len(images))))
        torch.autograd.backward(torch.stack(list(losses.values())).sum())
        detector.zero_grad()

    return step


def _inference(detector: Detector, pictures: list[NDArray[np.uint8]]) -> Callable[[], int]:
    """Return a function that predicts all pictures and returns the number of instances."""

    def infer() -> int:
        return sum(len(found.scores) for found in detector.eval().predict(pictures, resize=False))

    return infer


def alternate(calls: Sequence[Callable[[], object]], repeats: int, device: torch.device) -> list[float]:
    """Return the median seconds of each call; they alternate, after one round of warm-up.

    On one CPU thread these are seconds of CPU time, which other programs change less.
    """
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    seconds: list[list[float]] = [[] for _ in calls]
    for repeat in range(repeats + 1):
        for call, spent in zip(calls, seconds, strict=True):
            _finish(device)
            start = clock()
            call()
            _finish(device)
            if repeat:
                spent.append(clock() - start)
    return [median(spent) for spent in seconds]


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _measure_memory(model: ModelConfig, work: Workload, plain: bool) -> int:  # noqa: FBT001  (a pool passes positions)
    """Run one training step, and return the peak memory of the GPU, or of this process."""
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):  # otherwise the peak depends on glibc's pools, and varies
        libc.mallopt(M_MMAP_THRESHOLD, 2**20)
    device = choose_device(work.device)
    images, targets = make_batch(work)
    with autocast_to(work, device):
        _step(build_model(model, work, plain=plain).to(device), images, [one.to(device) for one in targets])()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_memory()
