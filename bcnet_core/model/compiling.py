"""The parts of a detector through torch.compile, to predict with."""

from __future__ import annotations

import os
import shutil

from torch import nn

from bcnet_core.errors import usage_error
from bcnet_core.model.detectors import Detector
from bcnet_core.model.one_stage import OneStageHeads


def compile_detector(detector: Detector) -> Detector:
    """Compile the backbone with its pyramid, the towers of FCOS or the proposals, and the mask head, in place.

    Each is compiled at its first call. From the second size of images on, code is for any size, as that of the mask
    head is for any number of RoIs. On a GPU all but the mask head are replayed as CUDA graphs ("reduce-overhead").

    Args:
        detector: in evaluation mode, on its device.

    Returns:
        The detector.

    Raises:
        BCNetError: if it is on a CPU and there is no C++ compiler.
    """
    on_gpu = detector.device.type == "cuda"
    if not on_gpu and cpp_compiler() is None:
        raise usage_error("compiling for a CPU needs a C++ compiler", "install g++, or leave out --compile")
    heads = detector.heads
    towers: nn.Module = heads.boxes if isinstance(heads, OneStageHeads) else heads.rpn.head
    for part in (detector.backbone, towers):
        part.compile(mode="reduce-overhead" if on_gpu else "default")
    heads.masks.head.compile(dynamic=True)
    return detector


def cpp_compiler() -> str | None:
    """Return the C++ compiler that torch.compile would use on a CPU, or None."""
    return next(filter(None, map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++")))), None)
