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

    import numpy as np
    from numpy.typing import NDArray

    from bcnet_core.integrations.detectron2.predicting import Detectron2Detector
    from bcnet_core.model.detectors import Detector
    from bcnet_core.structures import Instances, Predictor

__version__ = "0.1.0"
__all__ = ["BCNetError", "ExitCode", "Runtime", "__version__", "load_detector", "predict_tiled"]


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


def predict_tiled(
    detector: Predictor, image: NDArray[np.uint8] | str | Path, *, tile: int = 1024, overlap: float = 0.2
) -> Instances:
    """Find the instances of one large image, tile by tile, and join those that tiles cut.

    Args:
        detector: of either backend, from `load_detector`.
        image: (H, W, 3) uint8 RGB, or a path; a huge file is read in windows, which needs `pip install 'bcnet[large]'`.
        tile: height and width of a tile, pixels. The detector sees each as an image of its own.
        overlap: share of its side that a tile has in common with the next.

    Returns:
        The instances in pixels of the image, best first, with all maps of the detector as run-length encoded masks.

    Raises:
        BCNetError: if the image cannot be read, or tiles are too small or share too little.
    """
    from bcnet_core.evaluation import tiles

    return tiles.predict_tiled(detector, image, tile=tile, overlap=overlap)
