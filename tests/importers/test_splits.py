"""Training and validation share no photo, whatever its name, and the same seed draws the same images."""

from __future__ import annotations

from pathlib import Path

import pytest

from bcnet_core import BCNetError
from bcnet_core.annotations.coco import Record
from bcnet_core.importers.source import SPLIT
from bcnet_core.importers.splits import TAIL, check_share, divide, same_content


def make_files(folder: Path, *contents: str) -> list[Path]:
    """Write files with these contents."""
    paths = [folder / f"{number}.jpg" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_text(content)
    return paths


def records(*splits: str | None) -> list[Record]:
    """Return an image record for each split, which may be unknown."""
    return [{"id": number, **({SPLIT: split} if split else {})} for number, split in enumerate(splits, start=1)]


def test_a_share_is_drawn_by_the_ids_and_the_seed_whatever_the_order(tmp_path: Path) -> None:
    images, photos = records(*[None] * 50), make_files(tmp_path, *map(str, range(50)))
    division = divide(images, photos, share=0.3, seed=0)
    assert division.names.count("val") == 15
    assert not division.by_source
    backwards = divide(images[::-1], photos[::-1], share=0.3, seed=0)
    assert backwards.names[::-1] == division.names
    assert divide(images, photos, share=0.3, seed=1).names != division.names


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [(1, 0.5, 0), (2, 0.01, 1), (2, 0.99, 1), (5, 0, 0), (5, None, 1), (0, 0.2, 0), (10, 0.25, 2)],
)
def test_each_side_gets_an_image_where_two_are_there(
    tmp_path: Path, count: int, share: float | None, expected: int
) -> None:
    photos = make_files(tmp_path, *map(str, range(count)))
    assert divide(records(*[None] * count), photos, share=share, seed=0).names.count("val") == expected


def test_a_source_that_is_split_keeps_its_split_unless_a_share_is_asked_for(tmp_path: Path) -> None:
    images, photos = records("val", "train", None, "val"), make_files(tmp_path, *"abcd")
    division = divide(images, photos, share=None, seed=0)
    assert division == (["val", "train", "train", "val"], [], True)
    assert divide(images, photos, share=0, seed=0) == (["train"] * 4, [], False)
    assert divide(images, photos, share=0.25, seed=0).names.count("val") == 1


def test_a_photo_on_both_sides_is_trained_on(tmp_path: Path) -> None:
    photos = make_files(tmp_path, "same", "other", "same", "third")
    (tmp_path / "link.jpg").symlink_to("1.jpg")
    division = divide(
        records("train", "train", "val", "val", "val"), [*photos, tmp_path / "link.jpg"], share=None, seed=0
    )
    assert division == (["train", "train", "train", "val", "train"], [2, 4], True)


def test_a_source_whose_validation_repeats_its_training_is_not_split(tmp_path: Path) -> None:
    photos = make_files(tmp_path, *"abcdeabcde")
    division = divide(records(*["train"] * 5, *["val"] * 5), photos, share=None, seed=0)
    assert not division.by_source
    assert division.names.count("val") == 2
    assert division.names[:5] == division.names[5:]


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_copies_and_links_of_a_photo_stay_together(tmp_path: Path, share: float) -> None:
    photos = make_files(tmp_path, *"abcabc")
    for number in (0, 1):
        (tmp_path / f"link{number}.jpg").symlink_to(photos[number])
    photos += [tmp_path / "link0.jpg", tmp_path / "link1.jpg"]
    for seed in range(10):
        names = divide(records(*[None] * 8), photos, share=share, seed=seed).names
        assert names[0] == names[3] == names[6]
        assert names[1] == names[4] == names[7]
        assert names[2] == names[5]
        assert set(names) == {"train", "val"}


def test_files_are_equal_only_if_every_byte_is(tmp_path: Path) -> None:
    head, tail = "h" * 10, "t" * TAIL
    photos = make_files(tmp_path, head + tail, "x" + head[1:] + tail, head + tail, tail, head + tail)
    assert same_content(photos) == [0, 1, 0, 3, 0]
    assert same_content([photos[3], photos[4], photos[3]]) == [0, 1, 0]


@pytest.mark.parametrize("share", [-0.1, 1, 20, float("nan")])
def test_a_share_is_below_one(share: float) -> None:
    with pytest.raises(BCNetError, match="share of validation"):
        check_share(share)
    check_share(None)
    check_share(0)
