"""Detectors in ONNX files that `export_detector` wrote: read, and run with onnxruntime."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass

from bcnet_core.annotations.coco import Record
from bcnet_core.config.runtime import PLAIN, Runtime
from bcnet_core.data.transforms import resize as resize_image
from bcnet_core.data.transforms import target_size
from bcnet_core.distributed import choose_device
from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.files.images import as_image
from bcnet_core.model.boxes import boxes_in_image
from bcnet_core.model.detectors import batches_of_a_size
from bcnet_core.structures import Detections
from bcnet_core.weights.checkpoint import EXPORTED
from bcnet_core.weights.export import FORMAT
from bcnet_core.weights.loading import Trained, read_trained
from bcnet_core.weights.traceable import INPUT, INSTANCE_OUTPUTS

EXPORT_AGAIN = "write it anew: bcnet weights export RUN -o model.onnx --format onnx"


class ExportedDetector:
    """A detector in an ONNX file, which predicts like the one that it was exported from.

    Args:
        path: the file.
        categories: COCO categories in label order.
        min_size: shorter side that images are resized to, pixels.
        max_size: bound of the longer side.
        device: like "cuda", or "auto" for a GPU if onnxruntime has support for one.
        batch: most images that go through the network together.

    Raises:
        BCNetError: if onnxruntime cannot run the file, or does not know the device.
    """

    def __init__(
        self,
        path: Path,
        *,
        categories: Sequence[Record],
        min_size: int,
        max_size: int,
        device: str = "auto",
        batch: int = 1,
    ) -> None:
        self.categories, self.min_size, self.max_size, self.batch = list(categories), min_size, max_size, batch
        self._session = _open(path, providers=_providers(device))
        self._maps = [one.name for one in self._session.get_outputs()][len(INSTANCE_OUTPUTS) :]

    def predict(self, images: Sequence[NDArray[np.uint8] | str | Path]) -> list[Detections]:
        """Find the instances of images; those that have the same size in the network go together, up to `batch`.

        Args:
            images: (H, W, 3) uint8 RGB arrays, or paths.

        Returns:
            One `Detections` per image, in pixels of that image.

        Raises:
            BCNetError: if an array is no such image, or a path cannot be read.
        """
        pixels = [as_image(image) for image in images]
        sizes = [target_size(*one.shape[:2], min_size=self.min_size, max_size=self.max_size) for one in pixels]
        found: dict[int, Detections] = {}
        for places in batches_of_a_size(sizes, self.batch):
            size = sizes[places[0]]
            batch = np.stack([resize_image(pixels[place], *size).transpose(2, 0, 1) for place in places])
            outputs = [torch.from_numpy(part) for part in self._session.run(None, {INPUT: batch})]
            for index, place in enumerate(places):
                mine = outputs[INSTANCE_OUTPUTS.index("image_index")] == index
                boxes, scores, labels, _, *maps = (part[mine] for part in outputs)
                height, width = pixels[place].shape[:2]
                boxes = boxes_in_image(boxes, size, (height, width))
                named = dict(zip(self._maps, maps, strict=True))
                found[place] = Detections(boxes, scores, labels, (height, width), named)
        return [found[place] for place in range(len(pixels))]


@dataclass(frozen=True, config=ConfigDict(strict=True))
class Exported:
    """A detector in an ONNX file, read once; see `Trained`.

    Attributes:
        path: the file.
        categories: COCO categories in label order.
        min_size: shorter side that images are resized to, pixels.
        max_size: bound of the longer side.
        detections_per_image: number of detections that the file keeps.
        amodal_boxes: whether its boxes enclose whole objects, hidden parts included.
    """

    path: Path
    categories: list[dict[str, Any]]
    min_size: PositiveInt
    max_size: PositiveInt
    detections_per_image: PositiveInt
    amodal_boxes: bool

    def build(
        self,
        device: str = "auto",
        *,
        detections_per_image: int | None = None,
        runtime: Runtime = PLAIN,
        layers: bool = True,
    ) -> ExportedDetector:
        """Open the file on a device.

        Args:
            device: like "cuda", or "auto" for a GPU if onnxruntime has support for one.
            detections_per_image: number of detections that it keeps, which must be the file's; None for the file's.
            runtime: how it computes; only the size of batches is not the file's.
            layers: whether all maps are needed; the file computes them anyway.

        Raises:
            BCNetError: if onnxruntime cannot run the file there, or something is asked for that the file has no choice
                of.
        """
        if detections_per_image not in {None, self.detections_per_image}:
            raise _fixed(self.path, f"{self.detections_per_image} detections of an image")
        if runtime._replace(batch=1) != PLAIN:
            raise _fixed(self.path, "its precision, and onnxruntime runs it (no --precision, no --compile)")
        return ExportedDetector(
            self.path, categories=self.categories, min_size=self.min_size, max_size=self.max_size, device=device,
            batch=runtime.batch,
        )  # fmt: skip


def _fixed(path: Path, what: str) -> BCNetError:
    """Return the error for an option that an exported file has no choice of."""
    return usage_error(f"`{path}` is an exported file: it has {what}", "give the run that it was exported from")


def open_trained(path: Path) -> Trained | Exported:
    """Read a run directory, a checkpoint, or a detector in an ONNX file.

    Raises:
        BCNetError: see `read_trained` and `read_exported`.
    """
    return read_exported(path) if path.suffix.lower() == EXPORTED else read_trained(path)


def read_exported(path: Path) -> Exported:
    """Read what an ONNX file of `bcnet weights export` says of its detector.

    Raises:
        BCNetError: if the file is missing, damaged, of something else or of another format, or onnxruntime is missing.
    """
    if not path.is_file():
        raise data_error(f"the file `{path}` does not exist")
    session = _open(path)
    stored = session.get_modelmeta().custom_metadata_map
    if "bcnet_format" not in stored:
        raise data_error(f"`{path}` is an ONNX file of another program: it has no metadata of bcnet", EXPORT_AGAIN)
    if stored["bcnet_format"] != str(FORMAT):
        version = stored["bcnet_format"]
        raise data_error(f"`{path}` has export format {version:.80}, this bcnet reads {FORMAT}", EXPORT_AGAIN)
    try:
        content = {field.name: json.loads(stored[field.name]) for field in fields(Exported) if field.name != "path"}
        exported = Exported(path, **content)
        unnamed = [one for one in exported.categories if not {"id", "name"} <= one.keys()]
    except (ValueError, KeyError):
        raise data_error(f"`{path}` has damaged metadata", EXPORT_AGAIN) from None
    if unnamed or not exported.categories:
        raise data_error(f"`{path}` has damaged metadata: not every category has an id and a name", EXPORT_AGAIN)
    names = [one.name for one in (*session.get_inputs(), *session.get_outputs())]
    if names[: 1 + len(INSTANCE_OUTPUTS)] != [INPUT, *INSTANCE_OUTPUTS]:
        raise data_error(f"`{path}` was changed: its inputs and outputs are not those of bcnet", EXPORT_AGAIN)
    return exported


def _open(path: Path, providers: Sequence[object] = ("CPUExecutionProvider",)) -> Any:  # noqa: ANN401  (it has no types)
    """Return onnxruntime's session of a file.

    Raises:
        BCNetError: if onnxruntime is missing, or cannot run it.
    """
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError:
        raise usage_error(
            "ONNX files need the package `onnxruntime`", "install it: pip install onnxruntime, or onnxruntime-gpu"
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # its exceptions have no common base
        raise _unusable(path, str(error), version=onnxruntime.__version__) from None


def _unusable(path: Path, message: str, *, version: str) -> BCNetError:
    """Return the error of a file that onnxruntime does not take."""
    newer = re.search(r"opset \d+|IR version: \d+", message, re.IGNORECASE)
    if newer:
        return data_error(f"`{path}` has {newer[0]}, which onnxruntime {version} does not run", EXPORT_AGAIN)
    if "INVALID_PROTOBUF" in message or "INVALID_ARGUMENT" in message:
        return data_error(f"`{path}` is damaged or incomplete, or no ONNX file", EXPORT_AGAIN)
    reason = message.strip().splitlines()[0].rpartition("failed:")[2]
    return data_error(f"onnxruntime {version} does not run `{path}`: {reason:.200}", EXPORT_AGAIN)


def _providers(device: str) -> list[object]:
    """Return the provider of onnxruntime that runs on a device.

    Raises:
        BCNetError: if it has none.
    """
    import onnxruntime

    there = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    chosen = choose_device("cpu" if device == "auto" and not there else device)
    if chosen.type == "cpu":
        return ["CPUExecutionProvider"]
    if not there:
        raise usage_error(
            f"this onnxruntime cannot run on `{device}`", "install onnxruntime-gpu, or use the CPU: --device cpu"
        )
    return [("CUDAExecutionProvider", {"device_id": chosen.index, "use_tf32": "0"}), "CPUExecutionProvider"]
