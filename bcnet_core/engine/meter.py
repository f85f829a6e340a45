"""How fast a run is, and how much of its time it waits for data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

from bcnet_core.engine.memory import peak_memory

Item = TypeVar("Item")


class Meter:
    """Measures the steps since it was last read.

    Args:
        images: of a step, over all processes.
        device: whose memory is told.
    """

    def __init__(self, images: int, device: torch.device) -> None:
        self._images, self._device = images, device
        self._begin()

    def _begin(self) -> None:
        self._started, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def watch(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The same batches; the time until each of them is there counts as waiting."""
        source = iter(batches)
        while True:
            asked = time.perf_counter()
            try:
                batch = next(source)
            except StopIteration:
                return
            self._waited += time.perf_counter() - asked
            self._steps += 1
            yield batch

    def pause(self, seconds: float) -> None:
        """Leave out time that was spent on something else than steps: saving, an evaluation."""
        self._started += seconds

    def read(self) -> dict[str, float]:
        """Images a second, the share of the time spent waiting for data, and the peak memory of this process in GB.

        To be called while a step is under way, at its end: it counts as done.
        """
        seconds = max(time.perf_counter() - self._started, 1e-9)
        on_gpu = self._device.type == "cuda"
        memory = torch.cuda.max_memory_allocated(self._device) if on_gpu else peak_memory()
        found = {
            "images_per_second": self._steps * self._images / seconds,
            "data_wait": self._waited / seconds,
            "memory_gb": memory / 1e9,
        }
        self._begin()
        return {name: float(f"{value:.4g}") for name, value in found.items()}
