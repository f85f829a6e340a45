"""`python -m benchmarks throughput`: images/s of FCOS R50 beside torchvision's Mask R-CNN R50."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Annotated, Any, NamedTuple

import torch
import typer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.resnet import Bottleneck
from torchvision.ops import FrozenBatchNorm2d

from bcnet_cli import console
from bcnet_cli.options import Device, ImageSize, Json, parse_size
from bcnet_core.config.load import load_recipe
from bcnet_core.data.dataset import Targets
from bcnet_core.distributed import choose_device
from bcnet_core.engine.optimizer import build_optimizer
from bcnet_core.maps import maps_of_results
from bcnet_core.model.detectors import Detector
from bcnet_core.model.folding import fold
from bcnet_core.structures import Detections
from benchmarks.crowds.peers import draw_masks
from benchmarks.speed.model import (
    CANDIDATES,
    CATEGORIES,
    Autocast,
    Workload,
    alternate,
    autocast_to,
    build_model,
    lower_threshold,
    make_batch,
)

RECIPE = "fcos_r50"
PEER = "maskrcnn_resnet50_fpn"


class Timed(NamedTuple):
    """Calls that are timed for one model.

    Attributes:
        name: of the model.
        step: a training step with its optimizer; None for a detector that cannot train.
        maps: inference of one image, to maps of 28 x 28.
        masks: the same, to masks in the image.
    """

    name: str
    step: Callable[[], object] | None
    maps: Callable[[], object]
    masks: Callable[[], object]


def throughput(
    *,
    size: ImageSize = "800x1067",
    images: Annotated[int, typer.Option("--images", min=1, help="Images of a training step.")] = 4,
    instances: Annotated[int, typer.Option("--instances", min=1, help="Instances of a training image.")] = 10,
    detections: Annotated[int, typer.Option("--detections", min=1, help="Detections of an image in inference.")] = 100,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timed rounds; the median is shown.")] = 5,
    autocast: Annotated[Autocast | None, typer.Option("--autocast", help="Precision; default off, then bf16.")] = None,
    steps: Annotated[bool, typer.Option("--steps/--no-steps", help="Time training steps, too.")] = True,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Time FCOS R50 and torchvision's Mask R-CNN R50 with random weights, alternately in one run.

    A training step has forward and backward pass and the optimizer. Inference is that of one image: to maps of 28 x 28,
    and to masks in the image, as RLEs (bcnet) or tensors of the image's size (torchvision). FCOS is there as it is
    trained, folded as it predicts, and without the maps that results without layers do not need. "operations" are those
    that PyTorch dispatches from image to maps.

    **Examples**

    `python -m benchmarks throughput --size 256x320 --images 1`

    `python -m benchmarks throughput --images 8 --repeats 10 --device cuda`
    """
    height, width = parse_size(size)
    title = f"{size}, steps of {images}, {instances} instances, {detections} detections, median of {repeats}"
    table = console.make_table(
        title, "", "step, images/s", "maps, ms", "masks, ms", "operations", "memory of a step, GB"
    )
    rows: list[dict[str, Any]] = []
    precisions: tuple[Autocast, ...] = ("off", "bf16") if autocast is None else (autocast,)
    for precision in precisions:
        work = Workload(height, width, images, instances, repeats, device, precision)
        rows += _measure(work, detections, steps=steps)
    for row in rows:
        memory = "" if row["memory"] is None else f"{row['memory'] / 1e9:.1f}"
        milliseconds = (f"{1000 * row[name]:.1f}" for name in ("maps", "masks"))
        name = f"{row['model']}, {'fp32' if row['autocast'] == 'off' else row['autocast']}"
        speed = "" if row["step"] is None else f"{images / row['step']:.1f}"
        table.add_row(name, speed, *milliseconds, f"{row['operations']:,}", memory)
    console.out.print(json.dumps(rows) if as_json else table)


def _measure(work: Workload, detections: int, *, steps: bool) -> list[dict[str, Any]]:
    """Time all models in one precision; the seconds are medians."""
    device = choose_device(work.device)
    images, targets = make_batch(work)
    wanted = [one.to(device) for one in targets]
    with autocast_to(work, device):
        models = [*_ours(detections, work, images, wanted, device), _peer(detections, work, images, wanted, device)]
        trained = [model for model in models if steps and model.step is not None]
        times = alternate([model.step for model in trained if model.step is not None], work.repeats, device)
        step = dict(zip([model.name for model in trained], times, strict=True))
        seconds = {
            name: alternate([getattr(model, name) for model in models], work.repeats, device)
            for name in ("maps", "masks")
        }
        return [
            {
                "model": model.name,
                "autocast": work.autocast,
                "step": step.get(model.name),
                **{name: spent[index] for name, spent in seconds.items()},
                "operations": count_operations(model.maps),
                "memory": _step_memory(model.step, device) if steps else None,
            }
            for index, model in enumerate(models)
        ]


def _ours(
    detections: int, work: Workload, images: list[Tensor], targets: list[Targets], device: torch.device
) -> list[Timed]:
    """Return the detector as it is trained, folded, and folded without the maps that only layers need."""
    recipe = load_recipe(RECIPE, [f"model.detections_per_image={detections}"])
    detector = build_model(recipe.model, work, plain=False).to(device)
    picture = images[0].permute(1, 2, 0).numpy()
    lower_threshold(detector, picture)
    names = maps_of_results(detector.heads.masks.head.outputs)
    folded, results = fold(deepcopy(detector)), fold(deepcopy(detector), maps=names)

    def predict(form: Detector) -> Detections:
        return form.eval().predict([picture], resize=False)[0]

    step = _step(detector, lambda: detector(images, targets, list(range(len(images)))))
    forms = ((RECIPE, step, detector), (f"{RECIPE}, folded", None, folded), (f"{RECIPE}, no layers", None, results))
    return [
        Timed(name, train, partial(predict, form), lambda form=form: predict(form).rles)  # type: ignore[misc]
        for name, train, form in forms
    ]


def _peer(detections: int, _: Workload, images: list[Tensor], targets: list[Targets], device: torch.device) -> Timed:
    """Return torchvision's model, with the frozen norms and stages that come with its ImageNet weights."""
    torch.manual_seed(0)
    body = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3)
    for block in body.modules():
        if isinstance(block, Bottleneck):
            block.bn3.weight.fill_(0.2)  # as in `build_model`
    height, width = images[0].shape[-2:]
    sides = {"min_size": min(height, width), "max_size": max(height, width)}
    model = MaskRCNN(body, len(CATEGORIES) + 1, box_detections_per_img=detections, **sides).to(device)
    pictures = [image.to(device) / 255 for image in images]
    wanted = [
        {"boxes": one.boxes, "labels": one.labels + 1, "masks": draw_masks(one, height, width).to(torch.uint8)}
        for one in targets
    ]

    @torch.no_grad()
    def maps() -> None:
        model.eval()
        batch, _ = model.transform(pictures[:1])
        features = model.backbone(batch.tensors)
        proposals, _ = model.rpn(batch, features)
        model.roi_heads(features, proposals, batch.image_sizes)

    @torch.no_grad()
    def masks() -> None:
        model.eval()(pictures[:1])

    seen: list[Tensor] = []
    hook = model.roi_heads.box_predictor.register_forward_hook(lambda _, __, output: seen.append(output[0].float()))
    maps()
    hook.remove()
    scores = seen[0].softmax(1)[:, 1:].flatten()
    model.roi_heads.score_thresh = float(scores.topk(min(CANDIDATES, len(scores))).values[-1]) * 0.999
    return Timed(PEER, _step(model, lambda: model(pictures, wanted)), maps, masks)


def _step(model: nn.Module, losses: Callable[[], dict[str, Tensor]]) -> Callable[[], None]:
    """Return a function that takes one training step, with a learning rate of 0."""
    optimizer = build_optimizer(model, load_recipe(RECIPE).solver)
    for group in optimizer.param_groups:
        group["lr"] = 0.0

    def step() -> None:
        model.train()
        torch.autograd.backward(torch.stack(list(losses().values())).sum())
        optimizer.step()
        optimizer.zero_grad()

    return step


def _step_memory(step: Callable[[], object] | None, device: torch.device) -> int | None:
    """Return the largest memory of the GPU during a step, bytes, that of all models included; None on a CPU."""
    if step is None or device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return torch.cuda.max_memory_allocated(device)


class _Counter(TorchDispatchMode):
    """Counts the operations that PyTorch dispatches."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, func: Callable[..., object], _: object, args: tuple[object, ...] = (), kwargs: object = None
    ) -> object:
        self.count += 1
        return func(*args, **(kwargs if isinstance(kwargs, dict) else {}))


def count_operations(call: Callable[[], object]) -> int:
    """Return the number of operations that PyTorch dispatches in a call."""
    counter = _Counter()
    with counter:
        call()
    return counter.count
