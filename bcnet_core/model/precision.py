"""The precision that a network computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from bcnet_core.config.choices import Precision

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Type that `torch.autocast` computes in, by precision."""


def computing_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Return the context in which a network computes in a precision; fp32 leaves that of the caller as it is."""
    dtype = AUTOCAST.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
