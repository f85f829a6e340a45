"""Export a detector to one file that runs without this package: TorchScript or ONNX, for images of one size."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bcnet_core.config.choices import ExportFormat
from bcnet_core.data.transforms import resize
from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.files.outputs import atomic_file
from bcnet_core.model.detectors import Detector

TOLERANCE = 1e-3
OPSET = 17


class ExportCheck(NamedTuple):
    """Comparison of an exported file with its detector on one image.

    Attributes:
        difference: largest difference of any output.
        instances: number of instances compared.
    """

    difference: float
    instances: int


class TensorDetector(nn.Module):
    """A detector in evaluation mode as a function of one tensor, without resizing, with maps inside their boxes."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of `forward`."""
        return ("boxes", "scores", "labels", *self.detector.heads.masks.head.outputs)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Find the N instances of a (3, H, W) uint8 RGB image.

        Returns:
            (N, 4) boxes in pixels, (N,) scores, (N,) int64 labels and the (N, S, S) maps, as in `Detections`.
        """
        batch = self.detector.preprocess([image])
        (found,) = self.detector.heads.detect(self.detector.backbone(batch.tensors), batch)
        boxes, scores, labels = found.proposals
        height, width = batch.image_sizes[0]
        limit = boxes.new_tensor([width, height, width, height])
        maps = (logits.sigmoid() for logits in found.logits.values())
        return (boxes.clamp(min=0).minimum(limit), scores, labels, *maps)


@torch.no_grad()
def export_detector(
    detector: Detector,
    path: Path,
    *,
    form: ExportFormat,
    height: int,
    width: int,
    picture: NDArray[np.uint8] | None = None,
) -> ExportCheck:
    """Export a detector for images of one size, and compare the file with it on an image not used for tracing.

    Args:
        detector: in evaluation mode, on the CPU.
        path: output file; replaced if it exists.
        form: "torchscript", or "onnx", which needs the packages onnx and onnxruntime.
        height: of the images, pixels.
        width: of the images, pixels.
        picture: (H, W, 3) uint8 RGB image to compare on, after a resize; by default noise.

    Raises:
        BCNetError: if the detector suppresses duplicates by their masks, a package is missing, or the file gives
            other outputs; then nothing is written.
    """
    if detector.heads.suppression.nms == "mask":
        raise usage_error(
            "exported files suppress duplicates by their boxes, this detector has model.nms=mask",
            'in Python: detector.heads.suppression = replace(detector.heads.suppression, nms="soft")',
        )
    model = TensorDetector(detector).eval()
    noise = torch.Generator().manual_seed(0)
    example, other = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=noise)
    if picture is not None:
        other = torch.from_numpy(np.array(resize(picture, height, width).transpose(2, 0, 1)))
    with atomic_file(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns about sizes that are fixed on purpose
        if form == "torchscript":
            traced = torch.jit.trace(model, (example,), check_trace=False)  # type: ignore[no-untyped-call]
            with temporary.open("wb") as out:  # given a path, torch aborts the process on a full disk
                torch.jit.save(traced, out)
            got = torch.jit.load(str(temporary))(other)  # type: ignore[no-untyped-call]
        else:
            got = _through_onnx(model, example, other, temporary)
        expected = model(other)
        difference = float("inf")
        if [part.shape for part in got] == [part.shape for part in expected]:
            parts = zip(got, expected, strict=True)
            difference = max((float((a.double() - b.double()).abs().max()) for a, b in parts if a.numel()), default=0.0)
        if not difference <= TOLERANCE:  # NaN included
            raise BCNetError(f"the exported file differs from the detector by {difference:g}; nothing was written")
    return ExportCheck(difference, len(expected[0]))


def _through_onnx(model: TensorDetector, example: Tensor, image: Tensor, path: Path) -> tuple[Tensor, ...]:
    """Write the ONNX file and run it on an image."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError as error:
        raise usage_error(f"ONNX export needs `{error.name}`", "install it: pip install onnx onnxruntime") from None
    torch.onnx.export(
        model,
        (example,),
        str(path),
        input_names=["image"],
        output_names=list(model.outputs),
        dynamic_axes={name: {0: "instances"} for name in model.outputs},
        opset_version=OPSET,
        dynamo=False,
    )
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return tuple(torch.from_numpy(part) for part in session.run(None, {"image": image.numpy()}))
