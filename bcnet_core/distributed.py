"""What a process knows of the others. Outside of a process group it is alone: rank 0 of 1."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from bcnet_core.errors import usage_error


def rank() -> int:
    """The number of this process among all, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def any_process(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """For each flag, whether it is set in any process (a collective call)."""
    if world_size() == 1:
        return list(flags)
    counts = torch.tensor(flags, dtype=torch.int32, device=device)
    distributed.all_reduce(counts)
    return [bool(count) for count in counts.tolist()]


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of a tensor over all processes (a collective call)."""
    if world_size() == 1:
        return values
    total = values.clone()
    distributed.all_reduce(total)
    return total / world_size()


Value = TypeVar("Value")


def gather(value: Value) -> list[Value] | None:
    """What each process holds, by rank: on rank 0, None elsewhere (a collective call; it must be picklable)."""
    if world_size() == 1:
        return [value]
    parts: list[Any] | None = [None] * world_size() if rank() == 0 else None
    distributed.gather_object(value, parts)
    return parts


def of_first(value: Value) -> Value:
    """What rank 0 holds, in every process (a collective call; it must be picklable)."""
    if world_size() == 1:
        return value
    parts: list[Any] = [value]
    distributed.broadcast_object_list(parts)
    received: Value = parts[0]
    return received


def wait_for_all() -> None:
    """Return when all processes have come here (a collective call)."""
    if world_size() > 1:
        distributed.barrier()


def choose_device(name: str) -> torch.device:
    """The device that a user's `--device` means in this process.

    Args:
        name: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:1".

    Raises:
        BCNetError: if it is no device, or a GPU that is not there.
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
            raise usage_error(f"`{name}` is not there: this machine has {gpus} GPUs", "use the CPU: --device cpu")
    return device


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other processes of an elastic launch until the block ends (gloo on the CPU, nccl on GPUs)."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()
