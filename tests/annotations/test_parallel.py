"""`map_images`: what a worker gets, the order of results, and the progress; and `read_mask`."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bcnet_core import masks
from bcnet_core.annotations import build
from bcnet_core.annotations.build import ImageRecords, annotate_coco, map_images
from bcnet_core.annotations.check import check_occluders
from bcnet_core.annotations.coco import CocoFile, read_mask
from bcnet_core.annotations.occluder import OccluderRule
from tests.annotations.conftest import CountingReporter


@pytest.fixture
def mixed() -> CocoFile:
    """Three images with unordered annotations; the second image has none."""
    annotations = [
        {"id": 10 + place, "image_id": image, "bbox": [place, 0, 1, 1], "iscrowd": 0, "secret": 1}
        for place, image in enumerate((3, 1, 3, 1, 1))
    ]
    del annotations[2]["iscrowd"]
    images = [{"id": number, "file_name": "a.jpg", "height": 10 * number, "width": 7} for number in (1, 2, 3)]
    return CocoFile(Path("memory.json"), {"images": images, "annotations": annotations, "categories": []})


def itself(image: ImageRecords) -> ImageRecords:
    return image


@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_images_come_in_the_order_of_the_file(mixed: CocoFile, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(build, "CHUNK", chunk)
    reporter = CountingReporter()
    with map_images(mixed, ("bbox", "iscrowd"), itself, workers=1, reporter=reporter) as found:
        seen = list(found)
    assert [positions for positions, _ in seen] == [[1, 3, 4], [], [0, 2]]
    assert [(image.height, image.width) for _, image in seen] == [(10, 7), (20, 7), (30, 7)]
    assert seen[2][1].annotations == [{"bbox": [0, 0, 1, 1], "iscrowd": 0}, {"bbox": [2, 0, 1, 1]}], "no other key"
    assert (reporter.title, reporter.total, reporter.done) == ("images", 3, 3)


def test_progress_advances_while_results_are_read(mixed: CocoFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "CHUNK", 2)
    reporter = CountingReporter()
    with map_images(mixed, (), itself, workers=1, reporter=reporter) as found:
        done = [reporter.done for _ in found]
    assert done == [0, 0, 2] and reporter.done == 3


@pytest.mark.parametrize("command", [annotate_coco, check_occluders])
def test_the_requested_number_of_workers_is_used(
    mixed: CocoFile, monkeypatch: pytest.MonkeyPatch, command: Callable[..., object]
) -> None:
    """The default is one; a worker needs eight tasks of 64 images."""
    asked: list[tuple[int, int]] = []

    @contextmanager
    def here(work: Any, tasks: Iterable[Any], *, workers: int, most: int, **_: object) -> Iterator[Iterator[Any]]:
        asked.append((workers, most))
        yield map(work, tasks)

    monkeypatch.setattr(build, "map_with_progress", here)
    run = partial(command, mixed, rule=OccluderRule())
    run()
    run(workers=5)
    image = mixed.images[0]
    mixed.images.extend({**image, "id": number} for number in range(4, 64 * 16 + 1))
    run(workers=0)
    assert asked == [(1, 0), (5, 0), (0, 2)]


@pytest.mark.parametrize(
    ("segmentation", "flaw"),
    [
        (None, "missing"),
        ([], "empty"),
        ({"size": [8, 9], "counts": [72]}, "empty"),
        ([[1, 1, 5, 1]], "degenerate"),
        ([[1, 1, 5, 1, 3, 1]], "degenerate"),
        ("text", "unreadable"),
        ({"size": [9, 8], "counts": [72]}, "unreadable"),
        ([[1, 1, 5, 1, 3, None]], "unreadable"),
    ],
)
def test_a_missing_mask_has_a_reason(segmentation: Any, flaw: str) -> None:
    assert read_mask({"segmentation": segmentation}, 8, 9) == (None, flaw)


def test_one_pixel_is_a_mask() -> None:
    assert read_mask({}, 8, 9) == (None, "missing")
    assert read_mask({"segmentation": [[3, 2, 4, 2, 4, 3, 3, 3]]}, 8, 9) == (masks.from_box(3, 2, 4, 3, 8, 9), None)
