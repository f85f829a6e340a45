"""The class-dependent tensors of a detector: their rows, and which of them fit the classes of other data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from bcnet_core.annotations.coco import Record, category_names


class ClassRows(NamedTuple):
    """The rows of a class-dependent tensor: those of the background first, then as many for each class, by label.

    Attributes:
        background: number of rows of the background: 0 in FCOS, 1 or 4 in the box predictor of Faster R-CNN.
        each: number of rows of a class.
    """

    background: int
    each: int

    def of(self, label: int) -> slice:
        """Return the rows of a class."""
        first = self.background + self.each * label
        return slice(first, first + self.each)

    def shape(self, tensor: tuple[int, ...], *, classes: int) -> tuple[int, ...]:
        """Return the shape that a tensor of this shape has in a model of so many classes."""
        return (self.background + self.each * classes, *tensor[1:])


def class_rows(
    shapes: Mapping[str, tuple[int, ...]], one_more: Mapping[str, tuple[int, ...]], *, classes: int
) -> dict[str, ClassRows]:
    """Find the class-dependent tensors of a model: they have more rows in the same model with one class more.

    Args:
        shapes: of the model's tensors, by name.
        one_more: those of the same model with `classes + 1` classes.
        classes: number of classes, without a background.
    """
    grown = {name: one_more[name][0] - shape[0] for name, shape in shapes.items() if shape != one_more[name]}
    return {name: ClassRows(shapes[name][0] - each * classes, each) for name, each in grown.items()}


def match_classes(trained: Iterable[Record], wanted: Iterable[Record]) -> dict[int, int]:
    """Return the label in `trained` of each label in `wanted` whose category has the same name.

    Upper and lower case and surrounding blanks do not count. Categories of one name are paired in their order, the
    second with the second; where one side has fewer, the others of that name have no match.
    """
    labels = {key: label for label, key in enumerate(_keys(trained))}
    return {label: labels[key] for label, key in enumerate(_keys(wanted)) if key in labels}


def _keys(categories: Iterable[Record]) -> Iterator[tuple[str, int]]:
    """Yield the name of each category as it is compared, and how many before it have the same."""
    seen: Counter[str] = Counter()
    for name in category_names(categories):
        key = name.strip().casefold()
        yield key, seen[key]
        seen[key] += 1


def transfer_rows(trained: Tensor, fresh: Tensor, rows: ClassRows, labels: Mapping[int, int]) -> Tensor:
    """Return a tensor with the trained rows of the background and of the matched classes, and fresh ones elsewhere.

    Args:
        trained: (background + each * K', ...), of the model that was trained.
        fresh: (background + each * K, ...), as initialized; the dtype and device of the result are its.
        rows: of both.
        labels: in `trained`, by the label in `fresh`; see `match_classes`.
    """
    result = fresh.clone()
    result[: rows.background] = trained[: rows.background]
    for label, before in labels.items():
        result[rows.of(label)] = trained[rows.of(before)]
    return result
