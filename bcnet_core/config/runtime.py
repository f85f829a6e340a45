"""How a trained detector computes."""

from __future__ import annotations

from typing import NamedTuple

from bcnet_core.config.choices import Precision


class Runtime(NamedTuple):
    """How a trained detector computes its predictions.

    Attributes:
        batch: most images that go through the network together; only those that have the same size there do.
        precision: of the network's arithmetic; boxes, scores and maps are float32 whatever it is.
        compile: whether the network goes through torch.compile, which takes a minute or more before the first image.
    """

    batch: int = 1
    precision: Precision = "fp32"
    compile: bool = False


PLAIN = Runtime()
"""One image at a time, in float32."""
