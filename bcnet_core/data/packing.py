"""A batch on its way from a loader process: all of its tensors in one.

Every tensor that a process hands to another costs a file of shared memory, opened and mapped on both sides. A batch
holds some ten for each image, which took the training process nearly as long as loading the images itself would have.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, NamedTuple

import torch
from torch import Tensor

ALIGNMENT = 16
"""Bytes; no element of a tensor has more."""


class Packed(NamedTuple):
    """What `pack` makes of an object.

    Attributes:
        data: the pickled object, which names its tensors by their number.
        layout: of each tensor the byte at which it begins, its shape and its dtype.
        bytes: (B,) uint8, all tensors, one behind the other.
    """

    data: bytes
    layout: list[tuple[int, torch.Size, torch.dtype]]
    bytes: Tensor


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.tensors: list[Tensor] = []

    def persistent_id(self, obj: object) -> int | None:
        if not isinstance(obj, Tensor):
            return None
        self.tensors.append(obj)
        return len(self.tensors) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, packed: Packed) -> None:
        super().__init__(io.BytesIO(packed.data))
        self._packed = packed

    def persistent_load(self, pid: int) -> Tensor:
        start, shape, dtype = self._packed.layout[pid]
        size = shape.numel() * dtype.itemsize
        return self._packed.bytes[start : start + size].view(dtype).view(shape)


def pack(value: object) -> Packed:
    """Put every tensor of an object, wherever it is in there, into one.

    Args:
        value: what can be pickled; its tensors are on the CPU.
    """
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(value)
    layout, end = [], 0
    for tensor in pickler.tensors:
        layout.append((end, tensor.shape, tensor.dtype))
        end += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    whole = torch.empty(end, dtype=torch.uint8)
    for (start, _, _), tensor in zip(layout, pickler.tensors, strict=True):
        whole[start : start + tensor.nbytes] = tensor.contiguous().view(-1).view(torch.uint8)
    return Packed(file.getvalue(), layout, whole)


def unpack(packed: Packed) -> Any:  # noqa: ANN401  (what was packed)
    """The object that was packed; its tensors share the memory of one."""
    return _Unpickler(packed).load()
