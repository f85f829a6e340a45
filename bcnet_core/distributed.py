"""Rank, world size, collective calls, and quantities of the whole batch, however it is spread over processes.

Divisors, draws and batch statistics are those of all processes together, so that their number does not change
training. Everything here is a no-op in a single process; in a group it is collective: call it on every rank in the
same order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from bcnet_core.errors import usage_error


def global_divisor(count: Tensor | float, device: torch.device, *, floor: float = 1.0) -> Tensor:
    """Return the divisor of a summed loss for which averaged gradients are those of one process with the whole batch.

    Args:
        count: of this process: positives, RoIs, a sum of weights.
        device: of the loss.
        floor: least value of the total over all processes.

    Returns:
        The total over all processes divided by their number, a float32 scalar.
    """
    total = torch.as_tensor(count, dtype=torch.float32, device=device).clone()
    if world_size() > 1:
        distributed.all_reduce(total)
    return total.clamp(min=floor) / world_size()


def smallest_of_all(keys: Tensor, count: int) -> Tensor:
    """Return which of this process's keys are among the smallest of all processes together.

    Args:
        keys: (N,) float32, distinct in practice; N may differ from process to process, and be 0.
        count: this process's share of the number that is chosen; the shares of all processes are added.

    Returns:
        (M,) int64 indices into `keys`, the smallest key first.
    """
    order = keys.argsort()
    if world_size() == 1:
        return order[:count]
    sizes = torch.tensor([len(keys), count], device=keys.device)
    most, total = sizes[:1].clone(), sizes[1:].clone()
    distributed.all_reduce(most, op=distributed.ReduceOp.MAX)
    distributed.all_reduce(total)
    padded = keys.new_full((int(most),), torch.inf)
    padded[: len(keys)] = keys
    gathered = [torch.empty_like(padded) for _ in range(world_size())]
    distributed.all_gather(gathered, padded)
    everyone = torch.cat(gathered).sort().values
    if int(total) >= len(everyone):
        return order
    return order[keys[order] < everyone[int(total)]]


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm whose training statistics are those of all processes together; also on the CPU, with gloo.

    PyTorch's `SyncBatchNorm` works on GPUs only. Names and shapes in the state dict are those of `BatchNorm2d`.

    Args:
        channels: C.
        eps: added to the variance.
        momentum: of the running statistics.
        act: what follows inside the layer, as in timm's `BatchNormAct2d`.
    """

    def __init__(self, channels: int, *, eps: float, momentum: float | None, act: nn.Module | None = None) -> None:
        super().__init__(channels, eps=eps, momentum=momentum)
        self.act = act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W) features; N may differ from process to process, and be 0."""
        if not self.training or world_size() == 1:
            return self._activated(super().forward(x))
        count = torch.tensor([float(x.numel() // x.shape[1])], device=x.device)
        distributed.all_reduce(count)
        divisor = count.clamp(min=1)
        values = x.float()
        mean: Tensor = _Sum.apply(values.sum((0, 2, 3))) / divisor
        centered = values - mean[:, None, None]
        variance: Tensor = _Sum.apply(centered.square().sum((0, 2, 3))) / divisor
        self._update(mean.detach(), variance.detach(), count)
        scale = self.weight * (variance + self.eps).rsqrt()
        return self._activated((centered * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype))

    def _activated(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(x)
        return out

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Update the running statistics, unless the batch was empty."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        step = self.momentum * (count > 0)
        unbiased = variance * count / (count - 1).clamp(min=1)
        self.running_mean += step * (mean - self.running_mean)
        self.running_var += step * (unbiased - self.running_var)
        self.num_batches_tracked += 1


def share_statistics(module: nn.Module) -> None:
    """Replace every `BatchNorm2d` below a module by a `GlobalBatchNorm2d` with its weights and statistics.

    An activation inside it, as in timm's `BatchNormAct2d`, stays inside.
    """
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d) and not isinstance(child, GlobalBatchNorm2d):
                act = getattr(child, "act", None)
                shared = GlobalBatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum, act=act)
                shared.load_state_dict(child.state_dict())
                setattr(parent, name, shared.to(child.weight.device).train(child.training))


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; its gradient is summed over them, too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ANN401  (autograd's context)
        total = value.contiguous().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total


Value = TypeVar("Value")


def rank() -> int:
    """Return the rank of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes in the group."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def any_process(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """Return, for each flag, whether it is set in any process (collective)."""
    if world_size() == 1:
        return list(flags)
    counts = torch.tensor(flags, dtype=torch.int32, device=device)
    distributed.all_reduce(counts)
    return [bool(count) for count in counts.tolist()]


def largest_of_processes(values: Sequence[int], device: torch.device) -> list[int]:
    """Return the largest of each of these numbers in any process (collective)."""
    if world_size() == 1:
        return list(values)
    largest = torch.tensor(values, dtype=torch.int64, device=device)
    distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
    return [int(value) for value in largest.tolist()]


def mean_over_processes(values: Tensor) -> Tensor:
    """Average a tensor over all processes (collective)."""
    if world_size() == 1:
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total / world_size()


def gather(value: Value) -> list[Value] | None:
    """Collect a picklable value of every process on rank 0, in the order of ranks; None elsewhere (collective)."""
    if world_size() == 1:
        return [value]
    parts: list[Any] | None = [None] * world_size() if rank() == 0 else None
    distributed.gather_object(value, parts)
    return parts


def broadcast(value: Value) -> Value:
    """Return rank 0's picklable value in every process (collective)."""
    if world_size() == 1:
        return value
    parts: list[Any] = [value]
    distributed.broadcast_object_list(parts)
    received: Value = parts[0]
    return received


def barrier() -> None:
    """Wait until every process has reached this call (collective)."""
    if world_size() > 1:
        distributed.barrier()


def choose_device(name: str) -> torch.device:
    """Return the device that `--device` selects for a process: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1".

    Raises:
        BCNetError: if the name is no device, or the GPU does not exist.
    """
    gpus = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if gpus else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise usage_error(f"`{name}` is not a device", "use auto, cpu, cuda or cuda:1") from None
    if device.type not in {"cpu", "cuda"}:
        raise usage_error(f"`{name}` is not supported", "use auto, cpu, cuda or cuda:1")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index)
        if device.index >= gpus:
            raise usage_error(f"`{name}` does not exist: this machine has {gpus} GPUs", "use the CPU: --device cpu")
    return device


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the process group of an elastic launch until the block ends (gloo on CPUs, NCCL on GPUs).

    A process that fails keeps its connections until it exits, so that its own error is recorded before those that the
    closed connections cause in other processes.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield
    distributed.barrier()  # torch 2.6 can hang while one process still works and another closes its connections
    distributed.destroy_process_group()
