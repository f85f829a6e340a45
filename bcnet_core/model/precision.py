"""The precision that a network computes in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from bcnet_core.config.choices import Precision
from bcnet_core.errors import BCNetError

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Type that `torch.autocast` computes in, by precision."""


@contextmanager
def computing_in(precision: Precision, images: Tensor) -> Iterator[None]:
    """Let a network infer from a (B, C, H, W) batch in a precision; fp32 leaves that of the caller as it is.

    Raises:
        BCNetError: if a GPU has too little memory for the batch.
    """
    dtype = AUTOCAST.get(precision)
    try:
        with nullcontext() if dtype is None else torch.autocast(images.device.type, dtype=dtype):
            yield
    except torch.cuda.OutOfMemoryError:
        count, _, height, width = images.shape
        what, way_out = "an image", "predict on the CPU, --device cpu, or large images in tiles, --tile 1024"
        if count > 1:
            what, way_out = f"{count} images", "make the batches smaller: --batch"
        raise BCNetError(
            f"the GPU has too little memory for {what} of {height} x {width} pixels in the network", way_out
        ) from None
