"""Weight files that would take all memory, or for ever, to read: found before they are read.

A pickle of a few bytes can ask for a buffer of any size, or build a value that doubles with every step; a zip archive
can unpack to a thousand times its size; a tensor can show one number as often as it likes.
"""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from typing import IO, Any

from torch import Tensor

MOST_STEPS = 500_000
"""Of a pickle, which takes some microseconds for each; the largest checkpoint with its optimiser takes 100,000."""
MOST_WORK = 100_000_000
"""Values that a value of a pickle is made of, each counted as often as it is met."""
MOST_SHARED = 4
"""Times the size of their file that tensors may have together; more than once it is where some share their numbers."""
SHARED_ANYHOW = 2_000_000_000
"""Bytes that they may have in any case."""
PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
GETS = {"GET", "BINGET", "LONG_BINGET"}
MARK = -1


def refuse_bomb(file: IO[bytes], *, pickles: int) -> None:
    """Go through a file of pickles without doing what they say.

    Args:
        file: at the beginning of the first; a zip archive as torch writes it where `pickles` is 0.
        pickles: how many come one after the other.

    Raises:
        UnpicklingError: if it is not to be read; whatever else, where it is damaged.
    """
    for _ in range(pickles):
        _refuse_work(file)
    if not pickles:
        _refuse_packed(file)


def _refuse_packed(file: IO[bytes]) -> None:
    """Torch stores tensors as they are, so the parts of an archive are never larger than the archive."""
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
        if len({part.filename for part in parts}) < len(parts):
            raise pickle.UnpicklingError("two of its parts have the same name")
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise pickle.UnpicklingError("its parts are packed, which torch never does")
        if sum(part.file_size for part in parts) > size:
            raise pickle.UnpicklingError("its parts are larger than the file")
        for part in parts:
            if part.filename.endswith("/data.pkl"):
                with archive.open(part) as content:
                    _refuse_work(content)


def _refuse_work(file: IO[bytes]) -> None:
    """Count what a pickle's values are made of, as they lie on the stack of its reader."""
    stack: list[int] = []
    memo: dict[int, int] = {}
    for step, (operation, argument, _) in enumerate(pickletools.genops(file)):
        name = operation.name
        if step > MOST_STEPS:
            raise pickle.UnpicklingError(f"it takes more than {MOST_STEPS:,} steps")
        if isinstance(argument, str) and argument.split(" ")[-1] == "bytearray":
            raise pickle.UnpicklingError("forbidden name builtins.bytearray")
        if name in PUTS:
            place = len(memo) if argument is None else int(argument)
            if place > MOST_STEPS:
                raise pickle.UnpicklingError("it asks for more room than it needs")
            memo[place] = stack[-1]
        elif name in GETS:
            stack.append(memo[argument or 0])
        elif name == "MARK":
            stack.append(MARK)
        else:
            work = sum(_taken(stack, operation)) + 1
            if work > MOST_WORK:
                raise pickle.UnpicklingError("it holds a value that is endless")
            stack += [work] * len(operation.stack_after)


def _taken(stack: list[int], operation: pickletools.OpcodeInfo) -> Iterator[int]:
    """Take off the stack what an operation does."""
    if operation.name == "POP":  # also of a mark
        stack.pop()
        return
    if pickletools.markobject in operation.stack_before:
        while (work := stack.pop()) != MARK:
            yield work
    fixed = [one for one in operation.stack_before if one not in (pickletools.markobject, pickletools.stackslice)]
    for _ in fixed:
        yield stack.pop()


def refuse_expanded(content: Any, size: int) -> None:  # noqa: ANN401  (whatever a file holds)
    """Refuse tensors and arrays that are larger than what they were read from.

    Args:
        content: what was read, containers in containers.
        size: of the file, in bytes.

    Raises:
        UnpicklingError: if they are.
    """
    total, seen, pending = 0, set[int](), [content]
    while pending:
        one = pending.pop()
        array = getattr(one, "value", None)
        if isinstance(one, Tensor):
            total += one.numel() * one.element_size()
        elif array is not None:
            total += array.nbytes
        elif id(one) not in seen and isinstance(one, dict | list | tuple | set):
            seen.add(id(one))
            pending += one.values() if isinstance(one, dict) else one
    if total > max(MOST_SHARED * size, SHARED_ANYHOW):
        raise pickle.UnpicklingError(f"its tensors would take {total / 1e9:,.1f} GB, the file has {size / 1e9:,.1f}")
