"""Export a detector to one file that runs without this package: TorchScript or ONNX, for images of any size."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bcnet_core import __version__
from bcnet_core.config.choices import ExportFormat
from bcnet_core.config.schema import Recipe
from bcnet_core.data.transforms import resize
from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.files.outputs import atomic_file
from bcnet_core.model.detectors import Detector
from bcnet_core.model.one_stage import OneStageHeads
from bcnet_core.structures import Detections
from bcnet_core.weights.traceable import INPUT, TensorDetector

FORMAT = 1
"""Version of the inputs, outputs and metadata of an ONNX file; other ones are rejected."""
OPSET = 17
TRACED = (2, 3, 96, 128)
"""Shape of the batch that a file is traced with; what it is run on afterwards has other ones."""
Run = Callable[[Tensor], Sequence[Tensor]]
"""An exported file: images to outputs."""


class Tolerance(NamedTuple):
    """What an instance of an exported file may differ by from the detector's.

    Attributes:
        boxes: of a coordinate, in longer sides of the box, or in pixels if it is shorter than one.
        scores: of the score.
        maps: of the probability of a cell.
        score: least score of an instance that must be found: what is found of weaker ones depends on rounding.
    """

    boxes: float
    scores: float
    maps: float
    score: float


TOLERANCES = {"fp32": Tolerance(1e-3, 1e-3, 1e-2, 0.0), "fp16": Tolerance(0.05, 0.05, 0.2, 0.3)}
LEAST_ALIKE = 0.95
"""Share of the instances that must be found within the tolerance; NMS may decide close calls otherwise."""


class ExportCheck(NamedTuple):
    """Comparison of an exported file with its detector.

    Attributes:
        difference: largest difference of a score or a probability of instances that match.
        pixels: largest difference of a coordinate of their boxes.
        instances: number of the detector's instances that were compared.
        alike: number of those that the file finds within the tolerance.
    """

    difference: float
    pixels: float
    instances: int
    alike: int


@torch.no_grad()
def export_detector(
    detector: Detector,
    path: Path,
    *,
    form: ExportFormat,
    height: int,
    width: int,
    picture: NDArray[np.uint8] | None = None,
    half: bool = False,
    recipe: Recipe | None = None,
) -> ExportCheck:
    """Export a detector, and compare the file with it: on an image, and on two smaller ones in a batch.

    Args:
        detector: in evaluation mode, on the CPU.
        path: output file; replaced if it exists.
        form: "torchscript", or "onnx", which needs the packages onnx and onnxruntime.
        height: of the image to compare on, pixels.
        width: of the image to compare on, pixels.
        picture: (H, W, 3) uint8 RGB image to compare on, after a resize; by default noise.
        half: whether convolutions and matrix products are of float16; boxes stay float32.
        recipe: of the detector, for the metadata of an ONNX file.

    Raises:
        BCNetError: if the detector suppresses duplicates by their masks, a package is missing, or the file gives
            other outputs; then nothing is written.
    """
    if detector.heads.suppression.nms == "mask":
        raise usage_error(
            "exported files suppress duplicates by their boxes, this detector has model.nms=mask",
            'in Python: detector.heads.suppression = replace(detector.heads.suppression, nms="soft")',
        )
    model = TensorDetector(_in_half(detector) if half else detector).eval()
    random = np.random.default_rng(0)
    if picture is None:
        picture = random.integers(0, 256, (height, width, 3), np.uint8)
    smaller = [resize(one, max(height // 2, 1), max(width * 2 // 3, 1)) for one in (picture, picture[:, ::-1])]
    example = torch.from_numpy(random.integers(0, 256, TRACED, np.uint8))
    with atomic_file(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns about numbers that are constants on purpose
        if form == "torchscript":
            run = _to_torchscript(model, example, temporary)
        else:
            run = _to_onnx(model, example, temporary, metadata(detector, half=half, recipe=recipe))
        checks = [
            compare(_run(run, batch), detector.predict(batch, resize=False), model.outputs, half=half)
            for batch in ([resize(picture, height, width)], smaller)
        ]
    return _together(checks)


def metadata(detector: Detector, *, half: bool = False, recipe: Recipe | None = None) -> dict[str, str]:
    """Return the metadata of an ONNX file: what a program needs to prepare images and to read the outputs.

    Everything but names of formats is JSON.
    """
    head, pixels = detector.heads.masks.head, detector.backbone.pixels
    content = {
        "bcnet_format": FORMAT,
        "bcnet_version": __version__,
        "detector": "fcos" if isinstance(detector.heads, OneStageHeads) else "faster_rcnn",
        "precision": "fp16" if half else "fp32",
        "categories": detector.categories,
        "min_size": detector.min_size,
        "max_size": detector.max_size,
        "size_divisor": detector.backbone.size_divisor,
        "mean": pixels.mean,
        "std": pixels.std,
        "channel_order": "bgr" if pixels.bgr else "rgb",
        "maps": head.outputs,
        "mask_size": head.mask_size,
        "amodal_boxes": detector.amodal_boxes,
        "detections_per_image": detector.heads.suppression.most,
        "recipe": None if recipe is None else recipe.model_dump(mode="json"),
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in content.items()}


def _in_half(detector: Detector) -> Detector:
    """Return a copy whose convolutions and matrix products are of float16; what comes to them is converted."""
    detector = deepcopy(detector)
    heads = detector.heads
    parts: list[nn.Module] = [detector.backbone, heads.masks.head]
    if isinstance(heads, OneStageHeads):
        parts.append(heads.boxes)
    else:
        parts += [heads.rpn.head, heads.roi_heads.box_head, heads.roi_heads.box_predictor]
    for part in parts:
        part.half().register_forward_pre_hook(lambda _, inputs: tuple(map(_halved, inputs)))
    return detector


def _halved(value: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    return [x.half() for x in value] if isinstance(value, list) else value.half()


def _to_torchscript(model: TensorDetector, example: Tensor, path: Path) -> Run:
    """Write the TorchScript file and load it."""
    traced = torch.jit.trace(model, (example,), check_trace=False)  # type: ignore[no-untyped-call]
    with path.open("wb") as out:  # given a path, torch aborts the process on a full disk
        torch.jit.save(traced, out)
    run: Run = torch.jit.load(str(path))  # type: ignore[no-untyped-call]
    return run


def _to_onnx(model: TensorDetector, example: Tensor, path: Path, properties: dict[str, str]) -> Run:
    """Write the ONNX file and load it."""
    try:
        import onnx
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError as error:
        raise usage_error(f"ONNX export needs `{error.name}`", "install it: pip install 'bcnet[onnx]'") from None
    sizes = {INPUT: {0: "batch", 2: "height", 3: "width"}, **{name: {0: "instances"} for name in model.outputs}}
    torch.onnx.export(
        model,
        (example,),
        str(path),
        input_names=[INPUT],
        output_names=list(model.outputs),
        dynamic_axes=sizes,
        opset_version=OPSET,
        dynamo=False,  # torch.export turns loops over images and instances into copies of their bodies
    )
    content = onnx.load(path)
    onnx.helper.set_model_props(content, properties)
    onnx.save(content, path)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(part) for part in session.run(None, {INPUT: images.numpy()})]


def _run(run: Run, images: Sequence[NDArray[np.uint8]]) -> Sequence[Tensor]:
    """Run an exported file on images of one size.

    Raises:
        BCNetError: if it does not take their size: a backbone may have made a constant of the one it was traced with.
    """
    batch = torch.from_numpy(np.stack(images).transpose(0, 3, 1, 2).copy())
    try:
        return run(batch)
    except Exception as error:  # both runtimes have exceptions of their own
        raise BCNetError(
            f"the exported file does not run on {len(batch)} x {batch.shape[2]} x {batch.shape[3]} pixels; nothing was "
            f"written ({str(error).strip().splitlines()[-1]:.200})",
            "its backbone cannot be exported for images of any size; take a ResNet",
        ) from error


def compare(
    got: Sequence[Tensor], expected: Sequence[Detections], names: Sequence[str], *, half: bool = False
) -> ExportCheck:
    """Compare the outputs of a file for a batch with what the detector finds in its images.

    An instance of the detector matches the nearest one of its class, whatever their order: among equal scores it
    depends on rounding.

    Raises:
        BCNetError: if fewer than `LEAST_ALIKE` of them match within the tolerance.
    """
    tolerance = TOLERANCES["fp16" if half else "fp32"]
    outputs = dict(zip(names, got, strict=True))
    checks = []
    for index, one in enumerate(expected):
        mine = outputs["image_index"] == index
        checks.append(_compare_image({name: part[mine] for name, part in outputs.items()}, one, tolerance))
    check = _together(checks)
    most = check.instances if half else max(check.instances, len(outputs["scores"]))
    if check.alike < LEAST_ALIKE * most:
        raise BCNetError(
            f"the exported file differs from the detector: {check.alike} of {most} instances are alike; nothing was "
            "written",
            *(["export it without --half"] if half else []),
        )
    return check


def _together(checks: Sequence[ExportCheck]) -> ExportCheck:
    differences, pixels, instances, alike = zip(*checks, strict=True)
    return ExportCheck(max(differences), max(pixels), sum(instances), sum(alike))


def _compare_image(got: dict[str, Tensor], expected: Detections, tolerance: Tolerance) -> ExportCheck:
    wanted = expected.at_least(tolerance.score)
    if 0 in (len(wanted.boxes), len(got["boxes"])):
        return ExportCheck(0.0, 0.0, len(wanted.boxes), 0)
    boxes = (wanted.boxes[:, None] - got["boxes"]).abs().amax(2)  # (N, M)
    pixels, nearest = boxes.masked_fill(wanted.labels[:, None] != got["labels"], torch.inf).min(1)
    side = (wanted.boxes[:, 2:] - wanted.boxes[:, :2]).amax(1).clamp(min=1)
    scores = (wanted.scores - got["scores"][nearest]).abs()
    maps = torch.stack([(part - got[name][nearest]).abs().amax((1, 2)) for name, part in wanted.maps.items()]).amax(0)
    alike = (pixels <= tolerance.boxes * side) & (scores <= tolerance.scores) & (maps <= tolerance.maps)
    if not alike.any():
        return ExportCheck(0.0, 0.0, len(alike), 0)
    difference = float(torch.maximum(scores, maps)[alike].amax())
    return ExportCheck(difference, float(pixels[alike].amax()), len(alike), int(alike.sum()))
