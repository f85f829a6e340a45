"""A slow reference of the occluder rule on dense pixels, and a reporter that counts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bcnet_core.annotations.occluder import OccluderRule
from bcnet_core.reporting import Progress, SilentReporter

Mask = NDArray[np.bool_]
DenseOccluders = Callable[
    [Sequence[Mask | None], Sequence[Sequence[float]], Sequence[bool], OccluderRule, tuple[int, int]], list[Mask | None]
]


class CountingReporter(SilentReporter):
    """Counts the reported progress."""

    done = total = 0
    title = ""

    def progress(self, title: str, total: int) -> Any:
        self.title, self.total = title, total
        return self

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, amount: int = 1, *, note: str = "", values: Mapping[str, str] | None = None) -> None:
        self.done += amount


@pytest.fixture(scope="session")
def dense_occluders() -> DenseOccluders:
    """Return the occluder region of every instance by definition, None where there is none."""

    def derive(
        dense: Sequence[Mask | None],
        boxes: Sequence[Sequence[float]],
        crowd: Sequence[bool],
        rule: OccluderRule,
        size: tuple[int, int],
    ) -> list[Mask | None]:
        regions: list[Mask | None] = []
        for i, (x, y, w, h) in enumerate(boxes):
            region = np.zeros(size, dtype=bool)
            for j, (x2, y2, w2, h2) in enumerate(boxes):
                other = dense[j]
                if i == j or other is None or (crowd[j] and not rule.crowd):
                    continue
                overlap_x = max(0.0, min(x + w, x2 + w2) - max(x, x2) + 1)
                overlap_y = max(0.0, min(y + h, y2 + h2) - max(y, y2) + 1)
                shared = overlap_x * overlap_y
                joint = (w + 1) * (h + 1) + (w2 + 1) * (h2 + 1) - shared
                if shared > 0 and joint > 0 and shared / joint > rule.min_iou:
                    region |= other
            cut = np.zeros(size, dtype=bool)
            cut[max(int(y), 0) : max(int(y + h), 0), max(int(x), 0) : max(int(x + w), 0)] = True
            region &= cut
            regions.append(region if region.sum() > rule.min_area else None)
        return regions

    return derive
