"""Opening a recipe's training set, and the order of its images, which seed and step alone decide."""

from __future__ import annotations

import shlex
from collections.abc import Generator, Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from bcnet_core.annotations.coco import CocoFile, read_coco
from bcnet_core.config.schema import DataConfig, DatasetConfig
from bcnet_core.data.dataset import Sample, TrainingSet
from bcnet_core.data.packing import pack, unpack
from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.files.workers import obey_parent_only

SHOWN = 6
"""Files of a data root that an error names, at most."""


def read_annotations(
    data: DataConfig, dataset: DatasetConfig, *, need_annotations: bool = True, configurable: bool = True
) -> CocoFile:
    """Read the annotation file of one of a recipe's data sets.

    Args:
        data: section `data` of the recipe.
        dataset: one of its data sets.
        need_annotations: whether a file without annotations is an error.
        configurable: whether the command takes settings of the recipe, for the hints of an error.

    Raises:
        BCNetError: if the file does not exist or is not COCO.
    """
    path, _ = data.locate(dataset)
    if not path.exists():
        raise _missing_annotations(data, dataset, configurable=configurable)
    coco = read_coco(path, need_annotations=need_annotations)
    if not coco.images:
        raise data_error(f"`{path}` lists no image")
    return coco


def _missing_annotations(data: DataConfig, dataset: DatasetConfig, *, configurable: bool) -> BCNetError:
    """Return the error for a missing annotation file, with the files that exist under the data root."""
    if dataset.annotations.is_absolute():
        return data_error(f"the annotation file `{dataset.annotations}` of the recipe does not exist")
    if data.root is None:
        return usage_error(
            f"`{dataset.annotations}` does not exist here, and no data root was given",
            "say where the data is: --data-root DIR, or set BCNET_DATA",
        )
    root, key = data.root, next(name for name in ("train", "val", "test") if getattr(data, name) == dataset)
    if not root.is_dir():
        return data_error(f"the data root `{root}` does not exist", "say where the data is: --data-root DIR")
    files = [str(path.relative_to(root)) for path in sorted(root.glob("*.json")) + sorted(root.glob("*/*.json"))]
    folders = [path.name for path in sorted(root.iterdir()) if path.is_dir() and path.name != "annotations"]
    annotations, images = (_best_match(names, key) for names in (files, folders))
    hints = [f"json files in it: {', '.join(files[:SHOWN]) or 'none'}; folders: {', '.join(folders[:SHOWN]) or 'none'}"]
    if configurable:
        hints.append(
            f"name them: data.{key}.annotations={annotations or 'FILE'} data.{key}.images={images or 'FOLDER'}"
        )
    return data_error(
        f"the data root `{root}` has no `{dataset.annotations}`, which `data.{key}.annotations` names",
        *hints,
        "or choose another data root: --data-root DIR",
    )


def _best_match(names: list[str], key: str) -> str | None:
    """Return the name most likely to belong to the data set `key`, quoted for a shell."""
    found = [name for name in names if key in name]
    return shlex.quote(min(found, key=lambda name: ("instances" not in name, name))) if found else None


def open_training_set(data: DataConfig, *, need_occluders: bool = True) -> tuple[TrainingSet, CocoFile]:
    """Open a recipe's training set, and refuse now what would fail later.

    Args:
        data: the recipe's.
        need_occluders: whether a set without any occluder is refused, unless the recipe allows it.

    Raises:
        BCNetError: if annotations or images are missing or not usable, or no instance has an occluder.
    """
    coco = read_annotations(data, data.train)
    dataset = TrainingSet(
        coco,
        data.locate(data.train)[1],
        occluders=data.occluders,
        min_size=data.min_size,
        max_size=data.max_size,
        flip=data.flip,
        train_sizes=data.train_sizes,
        scale_jitter=data.scale_jitter,
    )
    missing = dataset.missing_images()
    if missing:
        raise data_error(
            f"{len(missing):,} of {len(dataset):,} training images do not exist, the first is `{missing[0]}`",
            "is the folder of images right? data.train.images=FOLDER, or --data-root DIR",
        )
    if need_occluders and not data.allow_no_occluders and dataset.occluder_share == 0:
        derive = ["derive occluders from the masks: data.occluders=derive"] if dataset.reads_occluders else []
        raise data_error(
            f"no instance in `{coco.path}` has an occluder, so layer 1 has nothing to learn",
            *derive,
            "leave layer 1 out: model.layers=1",
            "or train it all the same: data.allow_no_occluders=true",
        )
    return dataset, coco


class StepSampler:
    """Yields, step by step, the `(position, seed)` items that one process loads.

    All processes draw from one endless sequence of shuffled epochs and take their own slice of each step's
    `batch_size` images, so neither a restart nor another number of processes changes what a step sees.

    Args:
        wide: (images,) of each image in the set whether it belongs with the wide ones: as many steps as can be hold
            images of one kind. All alike are not grouped.
        batch_size: images of a step over all processes; divisible by `world_size`.
        first_step: the step to begin with.
        last_step: the step to end before.
        seed: of order and samples.
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
    """Reorder an epoch so that batches hold images of one kind, as far as they come out even.

    Args:
        order: (images,) a permutation of the positions.
        wide: (images,) the kind of each position.
        batch_size: images of a step.
        first: images at the beginning of the epoch that belong to the last step of the one before.

    Returns:
        (images,) the same positions: what completes that step; whole batches in the order in which the last of
        their images comes; and what is left of both kinds.
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


class _Guarded(Dataset[Sample | BCNetError]):
    """Returns errors instead of raising them: a loader process would pass on their text alone."""

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
        dataset: what to load from.
        sampler: which items, step by step.
        workers: number of loader processes, which ignore the Ctrl-C or SIGTERM of a whole group; 0 loads in this one.

    Raises:
        BCNetError: when the step comes whose image or annotation cannot be read.
    """
    loader = DataLoader(
        _Guarded(dataset), batch_sampler=sampler, num_workers=workers, collate_fn=pack if workers else list,
        worker_init_fn=obey_parent_only,
    )  # fmt: skip
    for batch in loader:
        items = unpack(batch) if workers else batch
        for item in items:
            if isinstance(item, BCNetError):
                raise item
        yield items
