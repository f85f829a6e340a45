"""What a composed scene is: a picture and its objects in the true order of the layers.

For everything that composes scenes and everything that writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Window = tuple[slice, slice]
"""The rows and the columns of a part of an image."""


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene of H x W pixels.

    Attributes:
        label: index into the scene's class names.
        layer: 0 at the bottom; where two objects overlap, the higher layer is seen.
        amodal: (H, W) bool, the whole object inside the image, hidden parts included.
        visible: (H, W) bool, the part of it that is seen.
        source: the id of the annotation that it was cut along; None for what was drawn.
    """

    label: int
    layer: int
    amodal: Mask
    visible: Mask
    source: int | None = None

    @property
    def occlusion_rate(self) -> float:
        """The hidden share of the amodal area, in [0, 1)."""
        return 1.0 - float(np.count_nonzero(self.visible) / np.count_nonzero(self.amodal))


@dataclass(frozen=True)
class Scene:
    """A picture and everything that is in it.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        objects: from the bottom layer to the top one; none of them is hidden completely.
    """

    image: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]
