"""Batches of training samples, in an order that seed and step alone decide."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bcnet_core.data.dataset import Sample, TrainingSet
from bcnet_core.errors import BCNetError
from bcnet_core.files.workers import deferred_signals, obey_parent_only


class StepSampler:
    """Yield, step by step, the `(position, seed)` items that one process loads.

    All processes draw from one endless sequence of shuffled epochs and take their own slice of each step's
    `batch_size` images, so neither a restart nor another number of processes changes what a step sees.

    Args:
        wide: (images,) whether each image of the set is wide. As many steps as possible hold images of one kind.
        batch_size: images of a step over all processes; divisible by `world_size`.
        first_step: step to begin with.
        last_step: step to stop before.
        seed: seed of order and samples.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        *,
        wide: NDArray[np.bool_],
        batch_size: int,
        first_step: int,
        last_step: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._wide, self._batch_size, self._seed = wide, batch_size, seed
        self._steps = range(first_step, last_step)
        share = batch_size // world_size
        self._slice = slice(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order, size = -1, np.zeros(0, np.int64), len(self._wide)
        for step in self._steps:
            batch: list[tuple[int, int]] = []
            for draw in range(step * self._batch_size, (step + 1) * self._batch_size):
                if draw // size != epoch:
                    epoch = draw // size
                    shuffled = np.random.default_rng([self._seed, epoch]).permutation(size)
                    order = group_kinds(shuffled, self._wide, self._batch_size, first=-epoch * size % self._batch_size)
                sample_seed = int(np.random.SeedSequence([self._seed, epoch, draw]).generate_state(1)[0])
                batch.append((int(order[draw % size]), sample_seed))
            yield batch[self._slice]


def group_kinds(order: NDArray[np.int64], wide: NDArray[np.bool_], batch_size: int, *, first: int) -> NDArray[np.int64]:
    """Reorder an epoch so that as many batches as possible hold images of one kind.

    Args:
        order: (images,) a permutation of the positions.
        wide: (images,) the kind of each position.
        batch_size: images of a step.
        first: number of images that complete the last step of the previous epoch.

    Returns:
        (images,) the same positions: those first ones; whole batches, each where its last image was; and the rest of
        both kinds.
    """
    batches: list[int] = []
    waiting: dict[bool, list[int]] = {False: [], True: []}
    for position in order[first:].tolist():
        kind = waiting[bool(wide[position])]
        kind.append(position)
        if len(kind) == batch_size:
            batches += kind
            kind.clear()
    return np.array([*order[:first].tolist(), *batches, *waiting[False], *waiting[True]], np.int64)


class _ErrorsAsItems(Dataset[Sample | BCNetError]):
    """Return errors instead of raising them: a data loader worker would pass on only their text."""

    def __init__(self, dataset: TrainingSet) -> None:
        self._dataset = dataset

    def __getitem__(self, item: tuple[int, int]) -> Sample | BCNetError:
        try:
            return self._dataset[item]
        except BCNetError as error:
            return error


def training_batches(dataset: TrainingSet, sampler: StepSampler, *, workers: int) -> Generator[list[Sample]]:
    """Load batches in the order of the sampler.

    Args:
        dataset: set to load from.
        sampler: items of each step.
        workers: number of data loader workers, which ignore the Ctrl-C or SIGTERM of a whole group; 0 loads in this
            process.

    Raises:
        BCNetError: in the step whose image or annotation cannot be read.
    """
    loader = DataLoader(
        _ErrorsAsItems(dataset), batch_sampler=sampler, num_workers=workers, collate_fn=pack if workers else list,
    )  # fmt: skip
    for batch in shield_workers(loader):
        items = unpack(batch) if workers else batch
        for item in items:
            if isinstance(item, BCNetError):
                raise item
        yield items


def shield_workers(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Make the workers of a loader ignore a Ctrl-C or SIGTERM of a whole group, from their first moment on."""
    loader.worker_init_fn = partial(_start_worker, loader.worker_init_fn)
    loader.__class__ = _ShieldedLoader
    return loader


class _ShieldedLoader(DataLoader[Any]):
    def __iter__(self) -> Any:  # noqa: ANN401  (torch's iterator is private)
        with deferred_signals():
            return super().__iter__()


def _start_worker(start: Callable[[int], None] | None, worker: int) -> None:
    obey_parent_only()
    if start is not None:
        start(worker)


class _Pickler(pickle.Pickler):
    """Pickle tensors by value, as arrays."""

    def reducer_override(self, value: Any) -> Any:  # noqa: ANN401  (pickle's signature)
        return (torch.from_numpy, (value.numpy(),)) if isinstance(value, Tensor) else NotImplemented


def pack(batch: list[Any]) -> Tensor:
    """Pickle a batch into one (B,) uint8 tensor.

    Every tensor that a worker hands over costs a file of shared memory, opened and mapped on both sides. A batch of 32
    images with its some 350 tensors took the training process 130 ms, one tensor takes 10 ms.
    """
    file = io.BytesIO()
    _Pickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(batch)
    return torch.frombuffer(file.getbuffer(), dtype=torch.uint8)


def unpack(packed: Tensor) -> list[Any]:
    """Return the batch that was packed."""
    batch: list[Any] = pickle.loads(packed.numpy().data)
    return batch
