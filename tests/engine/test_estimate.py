"""The memory estimate, compared with measured memory."""

from __future__ import annotations

import ctypes
import sys

import pytest
import torch

from bcnet_core.config.load import load_recipe
from bcnet_core.engine.estimate import MemoryEstimate, estimate_memory
from bcnet_core.engine.logging import peak_memory
from bcnet_core.engine.optimizer import build_optimizer
from benchmarks.memory import in_fresh_process
from benchmarks.speed import model as bench

SIZES = ("data.min_size=256", "data.max_size=384", "model.mask_rois_per_image=64")


def estimate(*overrides: str, processes: int = 1) -> MemoryEstimate:
    return estimate_memory(load_recipe("tiny", [*SIZES, *overrides]), num_classes=80, processes=processes)


def step(channels: int, size: tuple[int, int], images: int, instances: int) -> None:
    recipe = load_recipe("tiny", [*SIZES, f"model.channels={channels}"])
    work = bench.Workload(*size, images, instances, 1, "cpu")
    detector = bench.build_model(recipe.model, work, plain=False)
    optimizer = build_optimizer(detector, recipe.solver)
    pictures, targets = bench.make_batch(work)
    for _ in range(2):
        losses = detector(pictures, targets, list(range(images)))
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()


def measure() -> int:
    """Return the peak memory of two steps, less that of a process that did a small one."""
    ctypes.CDLL(None).mallopt(bench.M_MMAP_THRESHOLD, 65536)
    torch.set_num_threads(1)
    step(32, (64, 64), 1, 4)
    before = peak_memory()
    step(64, (256, 384), 4, 64)
    return peak_memory() - before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
def test_the_estimate_matches_the_measured_memory_of_a_step() -> None:
    assert sum(estimate()) == pytest.approx(in_fresh_process(measure), rel=0.3)


def test_memory_grows_with_the_batch_per_process() -> None:
    assert estimate("solver.batch_size=8").activations == pytest.approx(2 * estimate().activations, rel=0.01)
    assert estimate(processes=2).activations == estimate("solver.batch_size=2").activations
    assert estimate("solver.accumulate=2").activations == estimate("solver.batch_size=2").activations


def test_optimizer_ema_and_precision_change_the_memory() -> None:
    adamw, sgd = estimate(), estimate("solver.optimizer=sgd")
    assert adamw.optimizer == 2 * sgd.optimizer == 2 * sgd.gradients
    assert estimate("solver.ema=0.9").weights == 2 * adamw.weights
    assert estimate("solver.precision=bf16").activations == adamw.activations // 2
    assert sum(estimate("model.detector=faster_rcnn")) > 0
