"""Sets of shapes on disk: exact COCO annotations, reproducible bytes, complete or absent."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcnet_core import masks
from bcnet_core.annotations.coco import OCCLUDER_KEY, CocoFile, read_coco, segmentation_rle
from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.files.images import read_image
from bcnet_core.reporting import Progress, SilentReporter
from bcnet_core.synth import scenes as writer
from bcnet_core.synth.bank import BANK_INDEX
from bcnet_core.synth.outlines import CLASSES
from bcnet_core.synth.scenes import SplitSummary
from bcnet_core.synth.sets import write_shapes


def write(root: Path, **options: Any) -> list[SplitSummary]:
    return write_shapes(root, **{"images": 3, "val_images": 2, "size": 96, "workers": 1, **options})


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def shapes_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synth") / "shapes"
    write(root, images=40, val_images=5)
    return root


@pytest.fixture(scope="module")
def train(shapes_set: Path) -> CocoFile:
    return read_coco(shapes_set / "annotations" / "instances_train.json")


def dense(coco: CocoFile, image: dict[str, Any], key: str) -> list[np.ndarray]:
    found = [segmentation_rle(record, image, key=key) for record in coco.annotations_by_image()[image["id"]]]
    empty = np.zeros((image["height"], image["width"]), dtype=bool)
    return [empty if rle is None else masks.decode(rle) for rle in found]


def test_layout_and_images(shapes_set: Path) -> None:
    assert sorted(path.name for path in shapes_set.iterdir()) == ["annotations", "train", "val"]
    for split, count in (("train", 40), ("val", 5)):
        coco = read_coco(shapes_set / "annotations" / f"instances_{split}.json")
        assert [category["name"] for category in coco.categories] == list(CLASSES)
        assert len(coco.images) == count == len(list((shapes_set / split).iterdir()))
        for image in coco.images:
            pixels = read_image(shapes_set / split / image["file_name"], expect_size=(96, 96))
            assert pixels.shape == (96, 96, 3)
        ids = [record["id"] for record in coco.annotations]
        assert ids == list(range(1, len(ids) + 1))
        info = coco.content["info"]
        assert (info["generator"], info["seed"]) == ("bcnet synth shapes", 0)
        assert (info["split"], info["options"]) == (split, {"size": 96, "images": 40, "val_images": 5})


def test_the_image_on_disk_is_the_composed_one(shapes_set: Path) -> None:
    from bcnet_core.synth.shapes import compose_scene

    seeds = np.random.SeedSequence(0, spawn_key=(1, 3))
    scene = compose_scene(np.random.default_rng(seeds), height=96, width=96)
    assert np.array_equal(read_image(shapes_set / "val" / "000004.png"), scene.image)


def test_annotations_agree_with_their_masks(train: CocoFile) -> None:
    for image in train.images:
        records = train.annotations_by_image()[image["id"]]
        visible, amodal = dense(train, image, "segmentation"), dense(train, image, "amodal_segmentation")
        assert [record["layer"] for record in records] == list(range(len(records)))
        for layer, (record, seen, whole) in enumerate(zip(records, visible, amodal, strict=True)):
            above = np.any([np.zeros_like(seen), *amodal[layer + 1 :]], axis=0)
            assert np.array_equal(seen, whole & ~above)
            rows, columns = seen.nonzero()
            x, y = columns.min(), rows.min()
            assert record["bbox"] == [x, y, columns.max() - x + 1, rows.max() - y + 1]
            assert record["area"] == seen.sum()
            assert record["iscrowd"] == 0
            assert record["occlusion_rate"] == pytest.approx(1 - seen.sum() / whole.sum(), abs=1e-6)
            assert isinstance(record["segmentation"]["counts"], str)


def test_occluders_follow_the_rule(train: CocoFile) -> None:
    nonempty = 0
    for image in train.images:
        visible, stored = dense(train, image, "segmentation"), dense(train, image, OCCLUDER_KEY)
        boxes = [record["bbox"] for record in train.annotations_by_image()[image["id"]]]
        for index, (box, region) in enumerate(zip(boxes, stored, strict=True)):
            x, y, width, height = map(int, box)
            expected = np.zeros_like(region)
            for other, mask in enumerate(visible):
                if other != index and official_iou(box, boxes[other]) > 0.05:
                    expected[y : y + height, x : x + width] |= mask[y : y + height, x : x + width]
            assert np.array_equal(region, expected if expected.sum() > 20 else np.zeros_like(expected))
            nonempty += region.any()
    assert nonempty > len(train.images)


def official_iou(a: list[float], b: list[float]) -> float:
    sides = [min(a[axis] + a[axis + 2], b[axis] + b[axis + 2]) - max(a[axis], b[axis]) + 1 for axis in (0, 1)]
    shared = max(sides[0], 0) * max(sides[1], 0)
    areas = [(box[2] + 1) * (box[3] + 1) for box in (a, b)]
    return shared / (sum(areas) - shared)


def test_the_summary_counts_the_written_set(tmp_path: Path) -> None:
    first, second = write(tmp_path / "set", images=6)
    assert (first.split, first.images, second.split, second.images) == ("train", 6, "val", 2)
    coco = read_coco(tmp_path / "set" / "annotations" / "instances_train.json")
    rates = np.array([record["occlusion_rate"] for record in coco.annotations])
    assert first.instances == len(rates)
    assert first.occluded == pytest.approx(np.mean(rates >= 0.1))
    assert first.mean_occlusion_rate == pytest.approx(rates.mean())


def test_the_bytes_do_not_depend_on_the_number_of_workers(shapes_set: Path, tmp_path: Path) -> None:
    write(tmp_path / "two", images=40, val_images=5, workers=2)
    assert files(tmp_path / "two") == files(shapes_set)


def test_a_scene_does_not_depend_on_the_number_of_scenes(shapes_set: Path, tmp_path: Path) -> None:
    write(tmp_path / "few", images=2)
    for name in ("train/000001.png", "train/000002.png", "val/000002.png"):
        assert (tmp_path / "few" / name).read_bytes() == (shapes_set / name).read_bytes()


def test_seeds_and_splits_give_different_scenes(shapes_set: Path, tmp_path: Path) -> None:
    write(tmp_path / "other", seed=1)
    first = (shapes_set / "train" / "000001.png").read_bytes()
    assert (tmp_path / "other" / "train" / "000001.png").read_bytes() != first
    assert (shapes_set / "val" / "000001.png").read_bytes() != first


def test_an_existing_folder_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    for overwrite in (False, True):
        with pytest.raises(BCNetError) as caught:
            write(tmp_path / "mine", overwrite=overwrite)
        assert caught.value.exit_code == ExitCode.USAGE
    assert files(tmp_path) == {"mine/notes.txt": b"keep"}


def test_overwrite_replaces_an_earlier_set_but_no_other_coco_set(tmp_path: Path) -> None:
    write(tmp_path / "set", images=5)
    write(tmp_path / "set", images=1, overwrite=True)
    assert [path.name for path in (tmp_path / "set" / "train").iterdir()] == ["000001.png"]
    json_path = tmp_path / "set" / "annotations" / "instances_train.json"
    derived = json_path.with_name("bilayer_train.json")  # as `bcnet annotate` writes it
    derived.write_bytes(json_path.read_bytes())
    write(tmp_path / "set", images=1, overwrite=True)
    assert not derived.exists()
    json_path.write_text('{"info": {}, "images": [], "annotations": [], "categories": []}')
    with pytest.raises(BCNetError, match="something other"):
        write(tmp_path / "set", overwrite=True)
    assert json_path.exists()


@pytest.mark.parametrize("name", ["a/b", "", "../../mine.txt", 5])
def test_a_bank_that_lists_other_files_is_not_replaced(tmp_path: Path, name: object) -> None:
    write(tmp_path / "set", images=1)
    index = tmp_path / "set/bank/a" / BANK_INDEX
    index.parent.mkdir(parents=True)
    index.write_text(json.dumps({"disc": [{"file": name}]}))
    with pytest.raises(BCNetError, match="something other"):
        write(tmp_path / "set", overwrite=True)


def test_an_empty_folder_is_filled_and_a_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert (tmp_path / "empty" / "val" / "000002.png").exists()
    (tmp_path / "file").write_text("keep")
    with pytest.raises(BCNetError, match="is a file"):
        write(tmp_path / "file", overwrite=True)
    assert (tmp_path / "file").read_text() == "keep"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 63}, "too small"),
        ({"images": 0}, "one scene"),
        ({"val_images": 0}, "one scene"),
        ({"seed": -1}, "seed"),
    ],
)
def test_options_out_of_range_are_errors(tmp_path: Path, options: dict[str, int], message: str) -> None:
    with pytest.raises(BCNetError, match=message) as caught:
        write(tmp_path / "set", **options)
    assert caught.value.exit_code == ExitCode.USAGE
    assert files(tmp_path) == {}


def test_the_current_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BCNetError, match="cannot be created"):
        write(Path())


def test_a_failure_leaves_nothing_behind_and_keeps_the_old_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "old")
    before = files(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "write_json", full)
    for name, overwrite in (("new", False), ("old", True)):
        with pytest.raises(BCNetError, match="No space left"):
            write(tmp_path / name, seed=3, overwrite=overwrite)
    assert files(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


class Interrupting(SilentReporter):
    """Counts, and raises on the second report."""

    def __init__(self) -> None:
        self.done = 0

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Progress]:
        yield self

    def advance(self, amount: int = 1, *, note: str = "", values: Mapping[str, str] | None = None) -> None:
        if self.done:
            raise KeyboardInterrupt
        self.done += amount


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interruption_leaves_nothing_behind(tmp_path: Path, workers: int) -> None:
    reporter = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "set", images=100, workers=workers, reporter=reporter)
    assert reporter.done == writer.CHUNK
    assert list(tmp_path.iterdir()) == []
