"""Quantities of the whole batch, however it is spread over processes, so that their number does not change training.

Divisors, draws and batch statistics are those of all processes together. The functions and layers here are no-ops when
not distributed; otherwise they are collective: call them on every rank in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn

from bcnet_core.distributed import world_size


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
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W) features; N may differ from process to process, and be 0."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        count = torch.tensor([float(x.numel() // x.shape[1])], device=x.device)
        distributed.all_reduce(count)
        divisor = count.clamp(min=1)
        values = x.float()
        mean: Tensor = _Sum.apply(values.sum((0, 2, 3))) / divisor
        centered = values - mean[:, None, None]
        variance: Tensor = _Sum.apply(centered.square().sum((0, 2, 3))) / divisor
        self._update(mean.detach(), variance.detach(), count)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centered * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)

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
    """Replace every `BatchNorm2d` below a module by a `GlobalBatchNorm2d` with its weights and statistics."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                shared = GlobalBatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum)
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
