"""Who is in front follows the layers of scenes; every pixel goes to the instance in front."""

from __future__ import annotations

import time
from functools import partial
from itertools import combinations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcnet_core import masks
from bcnet_core.annotations.occluder import hiding_regions
from bcnet_core.masks import RLE
from bcnet_core.masks.order import FrontPair, disjoint_masks, front_pairs, front_to_back
from bcnet_core.synth.bank import Cutout
from bcnet_core.synth.composition import compose_pasted
from bcnet_core.synth.scenes import Scene
from bcnet_core.synth.shapes import compose_scene
from tests.conftest import examples

NOTHING = masks.from_box(0, 0, 0, 0, 20, 20)
box = partial(masks.from_box, height=20, width=20)


def layers(scene: Scene) -> tuple[list[RLE], list[RLE], list[FrontPair]]:
    """Return visible masks, whole masks, and the pairs of which the upper one is seen over the lower."""
    objects = scene.objects
    pairs = [
        FrontPair(upper, lower)
        for lower, upper in combinations(range(len(objects)), 2)
        if (objects[lower].amodal & objects[upper].visible).any()
    ]
    visible, whole = ([masks.encode(getattr(one, name)) for one in objects] for name in ("visible", "amodal"))
    return visible, whole, sorted(pairs)


@examples(20)
@given(seed=st.integers(0, 2**32 - 1), hard=st.booleans())
def test_the_order_of_drawn_scenes_is_that_of_their_layers(seed: int, hard: bool) -> None:
    scene = compose_scene(np.random.default_rng(seed), height=96, width=128, hard=hard)
    visible, whole, expected = layers(scene)
    assert front_pairs(visible, whole, least=0) == expected
    assert disjoint_masks(whole, expected) == visible


@examples(10)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_pasted_scenes_is_that_of_their_layers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    discs = [np.float32(cv2.circle(np.zeros((40, 40)), (20, 20), radius, 1, -1)) for radius in (12, 15, 18, 19)]
    cutouts = [Cutout(np.full((40, 40, 3), 90, np.uint8), disc, 0, 1) for disc in discs]
    scene = compose_pasted(rng, cutouts, np.zeros((90, 90, 3), np.uint8), occlusion=(0.1, 0.6))
    if scene is not None:
        visible, whole, expected = layers(scene)
        assert expected and front_pairs(visible, whole, least=0) == expected


def test_a_third_instance_over_all_that_two_share_hides_their_order() -> None:
    whole = [box(0, 0, 10, 20), box(8, 0, 18, 20), box(6, 0, 12, 20)]
    visible = disjoint_masks(whole, [FrontPair(1, 0), FrontPair(2, 0), FrontPair(2, 1)])
    assert front_pairs(visible, whole) == [(2, 0), (2, 1)]


def test_a_ragged_border_is_no_order() -> None:
    whole, neighbor = box(0, 0, 10, 20), box(10, 0, 20, 20)
    ragged = masks.union([whole, box(10, 0, 11, 2)])  # reaches two pixels into its neighbor
    assert front_pairs([whole, neighbor], [ragged, neighbor]) == []
    assert front_pairs([whole, neighbor], [ragged, neighbor], least=0) == [(1, 0)]
    assert hiding_regions([whole, neighbor], [ragged, neighbor], 20, 20) == [None, None]


def test_where_each_covers_a_part_of_the_other_the_larger_part_decides() -> None:
    first, second = box(0, 0, 12, 20), box(8, 0, 20, 20)
    upper, lower = box(8, 0, 12, 15), box(8, 15, 12, 20)  # of what they share, `first` is seen in the upper part
    visible = [masks.difference(first, lower), masks.difference(second, upper)]
    assert front_pairs(visible, [first, second]) == [(0, 1)]
    half = box(8, 0, 12, 10), box(8, 10, 12, 20)
    visible = [masks.difference(first, half[1]), masks.difference(second, half[0])]
    assert front_pairs(visible, [first, second]) == []


def test_an_unknown_visible_mask_is_in_no_pair_and_an_unknown_whole_one_never_behind() -> None:
    upper, lower = box(0, 0, 10, 10), box(5, 0, 15, 10)
    visible = [upper, None, masks.difference(lower, upper), upper]
    assert front_pairs(visible, [upper, lower, lower, None]) == [(0, 2), (3, 2)]
    assert front_pairs([], []) == []


def test_the_better_one_comes_first_where_no_order_is_known() -> None:
    assert front_to_back(4, []) == [0, 1, 2, 3]
    assert front_to_back(4, [FrontPair(3, 1)]) == [0, 2, 3, 1]
    assert front_to_back(0, []) == []


@pytest.mark.parametrize(
    ("pairs", "order"),
    [
        ([(0, 1), (1, 2), (2, 0)], [0, 1, 2, 3]),  # 0 is no longer behind 2
        ([(0, 1), (1, 0)], [0, 1, 2, 3]),
        ([(1, 2), (2, 3), (3, 1), (3, 0)], [1, 2, 3, 0]),  # 0 is behind the cycle, not in it
        ([(0, 2), (2, 1), (1, 0), (1, 3), (3, 1)], [0, 2, 1, 3]),
    ],
)
def test_a_cycle_is_broken_at_its_best_instance(pairs: list[tuple[int, int]], order: list[int]) -> None:
    assert front_to_back(4, [FrontPair(*pair) for pair in pairs]) == order


@examples(100)
@given(st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=25))
def test_only_pairs_of_a_cycle_are_ever_ignored(ends: set[tuple[int, int]]) -> None:
    pairs = [FrontPair(*pair) for pair in sorted(ends) if pair[0] != pair[1]]
    reached = np.eye(10, dtype=bool)
    reached[tuple(np.array(pairs, int).reshape(-1, 2).T)] = True
    for via in range(10):
        reached |= reached[:, via, None] & reached[via]
    order = front_to_back(10, pairs)
    assert sorted(order) == list(range(10))
    rank = np.argsort(order)
    for front, back in pairs:
        assert rank[front] < rank[back] or reached[back, front]
    for one in range(10):  # the best of a cycle that nothing else is in front of comes before the rest of it
        cycle = np.flatnonzero(reached[one] & reached[:, one])
        if reached[:, one].sum() == len(cycle):
            assert rank[cycle[0]] == rank[cycle].min()


def test_three_hundred_instances_that_are_all_in_cycles_take_seconds() -> None:
    lower, upper = np.triu_indices(300, 1)
    flipped = np.random.default_rng(0).random(len(lower)) < 0.5
    fronts, backs = np.where(flipped, upper, lower).tolist(), np.where(flipped, lower, upper).tolist()
    start = time.process_time()
    order = front_to_back(300, [FrontPair(*pair) for pair in zip(fronts, backs, strict=True)])
    assert sorted(order) == list(range(300)) and time.process_time() - start < 5


@examples(100)
@given(st.data())
def test_disjoint_masks_share_no_pixel_and_lose_none(data: st.DataObject) -> None:
    sides = st.integers(0, 20)
    rles = [box(*data.draw(st.tuples(sides, sides, sides, sides))) for _ in range(6)]
    ends = st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda pair: pair[0] != pair[1])
    pairs = [FrontPair(*pair) for pair in data.draw(st.lists(ends, max_size=12))]
    apart = np.array([masks.decode(rle) for rle in disjoint_masks(rles, pairs)])
    claimed = np.array([masks.decode(rle) for rle in rles])
    assert apart.sum(0).max() <= 1 and np.array_equal(apart.any(0), claimed.any(0)) and not (apart & ~claimed).any()
    order = front_to_back(6, pairs)
    assert sorted(order) == list(range(6))
    expected, taken = np.zeros_like(claimed), np.zeros((20, 20), bool)
    for one in order:
        expected[one] = claimed[one] & ~taken
        taken |= claimed[one]
    assert np.array_equal(apart, expected)


def test_five_hundred_instances_take_no_second() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((800, 1200), np.int32)
    whole = []
    for value in range(1, 501):
        mask = np.zeros(labels.shape, np.uint8)
        center = rng.uniform(0, 1200), rng.uniform(0, 800)
        cv2.ellipse(mask, (center, tuple(rng.uniform(20, 80, 2)), rng.uniform(0, 180)), 1, -1)
        whole.append(masks.encode(mask > 0))
        labels[mask > 0] = value
    seen = masks.from_labels(labels)
    visible = [seen.get(value, masks.from_box(0, 0, 0, 0, 800, 1200)) for value in range(1, 501)]
    start = time.process_time()
    pairs = front_pairs(visible, whole, least=0)
    apart = disjoint_masks(whole, pairs)
    taken = time.process_time() - start
    assert len(pairs) > 500 and all(front > back for front, back in pairs) and apart == visible
    assert taken < 1
