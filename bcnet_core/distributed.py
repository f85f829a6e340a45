"""Rank, world size, device and collective calls; outside a process group this is rank 0 of 1.

The collective functions are no-ops in a single process; in a group, every rank must call them in the same order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from bcnet_core.errors import usage_error

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
    """Join the process group of an elastic launch until the block ends (gloo on CPUs, NCCL on GPUs)."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()
