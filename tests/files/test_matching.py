"""File names are matched with paths by the longest ending they share, and never by a guess."""

from __future__ import annotations

import time
import unicodedata

import pytest

from bcnet_core.files.matching import match_by_ending


@pytest.mark.parametrize(
    ("names", "paths", "expected"),
    [
        (["a.png", "c.png"], ["x/a.png", "x/b.png"], [[0], []]),
        (["cam2/0.png", "cam1/0.png"], ["all/cam1/0.png", "all/cam2/0.png"], [[1], [0]]),
        (["0.png"], ["cam1/0.png", "cam2/0.png"], [[0, 1]]),
        (["here/cam1/0.png"], ["cam1/0.png", "there/cam1/0.png"], [[0]]),
        (["C:\\data\\cam1\\0.png"], ["cam2/0.png", "cam1/0.png"], [[1]]),
        (["a%20b.png", "50%25.png"], ["x/a b.png", "x/50%25.png"], [[0], [1]]),
        (["0.png", "x/0.png"], ["0.png", "x/0.png"], [[0], [1]]),
        (["root/0.png", "root/x/0.png"], ["0.png", "x/0.png"], [[0], [1]]),
        (["./x//0.png"], ["0.png", "x/0.png"], [[1]]),
        (["10.png"], ["0.png"], [[]]),
        ([], ["0.png"], []),
        ([""], ["0.png"], [[]]),
    ],
)  # fmt: skip
def test_the_longest_common_ending_decides(names: list[str], paths: list[str], expected: list[list[int]]) -> None:
    assert match_by_ending(names, paths) == expected


def test_a_path_that_shares_more_with_another_name_is_left_to_that_one() -> None:
    assert match_by_ending(["cam1/0.png", "cam2/0.png"], ["all/cam2/0.png"]) == [[], [0]]
    assert match_by_ending(["cam1/0.png"], ["all/cam2/0.png"]) == [[0]]


def test_names_that_fit_equally_well_all_get_the_path_so_that_the_caller_can_refuse() -> None:
    assert match_by_ending(["cam1/0.png", "cam2/0.png", "cam1/0.png"], ["0.png"]) == [[0], [0], [0]]


def test_decomposed_names_of_another_file_system_match() -> None:
    name = "Zürich.png"
    assert match_by_ending([name], ["x/" + unicodedata.normalize("NFD", name)]) == [[0]]


def test_one_name_in_many_folders_that_never_agree_takes_linear_time() -> None:
    names, paths = ([f"{side}{number}/image.png" for number in range(20_000)] for side in "ab")
    start = time.perf_counter()
    matches = match_by_ending(names, paths)
    assert time.perf_counter() - start < 20
    assert all(len(match) == len(paths) for match in matches)


def test_equal_names_in_a_thousand_folders_are_matched_in_linear_time() -> None:
    names = [f"cam{camera}/{frame:04d}.png" for camera in range(1000) for frame in range(40)]
    paths = [f"/data/all/{name}" for name in reversed(names)]
    start = time.perf_counter()
    matches = match_by_ending(names, paths)
    assert time.perf_counter() - start < 20  # comparing every pair of equal names would take minutes
    assert matches == [[len(names) - 1 - position] for position in range(len(names))]
