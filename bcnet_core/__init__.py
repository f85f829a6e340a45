"""BCNet: occlusion-aware instance segmentation with overlapping bilayers (CVPR 2021).

The package never prints or exits: it returns values, raises `BCNetError` and reports through a `Reporter`. Importing
it is cheap; functions load torch when they need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from bcnet_core.config.choices import Backend
from bcnet_core.config.runtime import PLAIN, Runtime
from bcnet_core.errors import BCNetError, ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from bcnet_core.integrations.detectron2.predicting import Detectron2Detector
    from bcnet_core.model.detectors import Detector

__version__ = "0.1.0"
__all__ = ["BCNetError", "ExitCode", "Runtime", "__version__", "load_detector"]


@overload
def load_detector(
    path: str | Path,
    *,
    device: str = "auto",
    backend: Literal["torchvision"] = "torchvision",
    runtime: Runtime = PLAIN,
) -> Detector: ...


@overload
def load_detector(path: str | Path, *, device: str = "auto", backend: Literal["detectron2"]) -> Detectron2Detector: ...


def load_detector(
    path: str | Path, *, device: str = "auto", backend: Backend = "torchvision", runtime: Runtime = PLAIN
) -> Detector | Detectron2Detector:
    """Load a trained detector, ready to predict.

    Args:
        path: a run directory, one of its checkpoint files, or the output of `bcnet weights import`.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", ...
        backend: library that runs it. "detectron2" takes its own checkpoints and those of the torchvision backend.
        runtime: how it computes; only the torchvision backend has a choice.

    Returns:
        The detector in evaluation mode on `device`.

    Raises:
        BCNetError: if there is no such run, the file is no checkpoint, its weights do not fit, or detectron2 is
            requested but not installed, or is to compute in batches or half precision.
    """
    from bcnet_core import backends

    return backends.load_detector(path, device=device, backend=backend, runtime=runtime)
