"""Occlusion rates against a dense reference and against values computed by hand."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations import occluder
from bcnet_core.annotations.rates import (
    LEVEL_FROM,
    MEASURES,
    count_levels,
    occlusion_level,
    occlusion_rates,
    rate_histogram,
)
from bcnet_core.config.choices import Measure
from tests.conftest import examples

H, W = 16, 24
WHOLE_BOXES = st.lists(
    st.tuples(st.integers(0, W - 1), st.integers(0, H - 1), st.integers(0, 12), st.integers(0, 12)), max_size=6
)


def dense_boxes(boxes: list[tuple[int, int, int, int]]) -> NDArray[np.bool_]:
    dense = np.zeros((len(boxes), 40, 40), dtype=bool)
    for mask, (x, y, w, h) in zip(dense, boxes, strict=True):
        mask[y : y + h, x : x + w] = True
    return dense


def reference(
    boxes: list[tuple[int, int, int, int]], masks_of: NDArray[np.bool_], kinds: list[int], measure: Measure
) -> list[float]:
    """Compute the rates on dense pixels; only instances of one kind are neighbors."""
    dense = dense_boxes(boxes)
    rates = []
    for i, one in enumerate(dense):
        neighbors = [j for j in range(len(dense)) if j != i and kinds[j] == kinds[i]]
        if measure == "mask":
            region = np.any([masks_of[j] for j in neighbors], axis=0) & one[:H, :W] if neighbors else np.zeros((H, W))
            rates.append(min(region.sum() / max(masks_of[i].sum(), 1), 1.0) if masks_of[i].any() else 0.0)
            continue
        best = 0.0
        for j in neighbors:
            shared = (one & dense[j]).sum()
            if shared:
                smaller = min(one.sum(), dense[j].sum())
                best = max(best, shared / ((one | dense[j]).sum() if measure == "iou" else smaller))
        rates.append(best)
    return rates


@examples(200)
@given(WHOLE_BOXES, st.sampled_from(MEASURES), st.randoms(use_true_random=False), st.booleans())
def test_equals_the_dense_reference(
    boxes: list[tuple[int, int, int, int]], measure: Measure, random: Random, same_class: bool
) -> None:
    """Every mask is a random half of its box, so that it differs from the box."""
    dense = dense_boxes(boxes)[:, :H, :W]
    noise = np.random.default_rng(random.randrange(1000)).random(dense.shape) < 0.5
    kinds = [random.randrange(2) if same_class else 0 for _ in boxes]
    found = occlusion_rates(
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        [masks.encode(mask) for mask in dense & noise], H, W, measure=measure,
        categories=np.array(kinds, dtype=np.int64) if same_class else None,
    )  # fmt: skip
    np.testing.assert_allclose(found, reference(boxes, dense & noise, kinds, measure), atol=1e-12)


def test_values_computed_by_hand() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [5, 0, 10, 10], [0, 0, 5, 4]])
    mask = masks.from_box(5, 0, 8, 10, H, W)  # 30 pixels, all of them in the first two boxes
    small = masks.from_box(0, 0, 5, 4, H, W)  # 20 pixels, in the first box alone
    own = masks.from_box(0, 0, 10, 10, H, W)
    assert occlusion_rates(boxes, [None] * 3, H, W, measure="iou").tolist() == [50 / 150, 50 / 150, 20 / 100]
    assert occlusion_rates(boxes, [None] * 3, H, W, measure="min").tolist() == [1, 0.5, 1]
    assert occlusion_rates(boxes, [None, mask, small], H, W, measure="mask").tolist() == [0, 0, 0]
    assert occlusion_rates(boxes, [own, mask, None], H, W, measure="mask").tolist() == [0.3, 1.0, 0]
    assert occlusion_rates(boxes, [own, mask, small], H, W, measure="mask").tolist() == [0.5, 1.0, 1.0]
    kinds = np.array([1, 2, 1])
    assert occlusion_rates(boxes, [None] * 3, H, W, measure="iou", categories=kinds).tolist() == [0.2, 0, 0.2]
    assert occlusion_rates(boxes, [own, mask, small], H, W, measure="mask", categories=kinds).tolist() == [0.2, 0, 1.0]


@pytest.mark.parametrize(("gap", "rate"), [(0.05, 30 / 40), (0.95, 20 / 40), (1.5, 0)])
def test_boxes_meet_up_to_a_pixel_apart(gap: float, rate: float) -> None:
    """A mask may leave its box by a fraction of a pixel; boxes farther apart are no neighbors."""
    boxes = np.array([[0, 0, 10.9, 10], [10.9 + gap, 0, 8, 10]])
    rles = [masks.from_box(0, 0, 13, 10, H, W), masks.from_box(14, 0, 18, 10, H, W)]
    assert occlusion_rates(boxes, rles, H, W, measure="mask").tolist() == [0, rate]


def test_small_instances_count_and_empty_masks_do_not() -> None:
    boxes = np.array([[0, 0, 9, 9], [2, 2, 0.5, 0.5], [2, 2, 1, 1]])
    assert occlusion_rates(boxes, [None] * 3, H, W, measure="min").tolist() == [1, 1, 1]
    rles = [masks.from_box(0, 0, 9, 9, H, W), masks.from_box(0, 0, 0, 0, H, W), masks.from_box(2, 2, 3, 3, H, W)]
    assert occlusion_rates(boxes, rles, H, W, measure="mask").tolist() == [1 / 81, 0, 1]


@pytest.mark.parametrize("measure", MEASURES)
def test_zero_instances_and_one(measure: Measure) -> None:
    assert occlusion_rates(np.zeros((0, 4)), [], H, W, measure=measure).tolist() == []
    assert occlusion_rates(np.array([[0.0, 0, 5, 5]]), [None], H, W, measure=measure).tolist() == [0]


@examples(50)
@given(WHOLE_BOXES, st.sampled_from(MEASURES), st.randoms(use_true_random=False))
def test_the_order_of_instances_does_not_matter(
    boxes: list[tuple[int, int, int, int]], measure: Measure, random: Random
) -> None:
    rles = [masks.encode(mask[:H, :W]) for mask in dense_boxes(boxes)]
    order = random.sample(range(len(boxes)), len(boxes))
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    rates = occlusion_rates(array, rles, H, W, measure=measure)
    shuffled = occlusion_rates(array[order], [rles[i] for i in order], H, W, measure=measure)
    assert shuffled.tolist() == rates[order].tolist()


@pytest.mark.parametrize("measure", MEASURES)
def test_blocks_of_pairs_do_not_change_the_rates(monkeypatch: pytest.MonkeyPatch, measure: Measure) -> None:
    random = np.random.default_rng(1)
    boxes = np.concatenate([random.integers(0, 30, (25, 2)), random.integers(3, 10, (25, 2))], axis=1).astype(float)
    rles = [masks.encode(mask[:H, :W]) for mask in dense_boxes(boxes.astype(int).tolist())]
    kinds = random.integers(0, 2, 25)
    at_once = occlusion_rates(boxes, rles, H, W, measure=measure, categories=kinds)
    monkeypatch.setattr(occluder, "MOST_PAIRS", 4 * 25)
    assert occlusion_rates(boxes, rles, H, W, measure=measure, categories=kinds).tolist() == at_once.tolist()
    assert (at_once > 0).sum() > 5


def test_levels_include_their_lower_bound() -> None:
    assert [occlusion_level(rate) for rate in (0.0, 0.0499, 0.05, 0.1999, 0.2, 1.0)] == [
        "none", "none", "light", "light", "heavy", "heavy",
    ]  # fmt: skip
    assert count_levels(np.array([0, 0.01, 0.05, 0.2, 0.9])) == {"none": 2, "light": 1, "heavy": 2}
    assert list(LEVEL_FROM) == list(count_levels(np.zeros(0)))


def test_histogram() -> None:
    rates = np.array([0, 0, 0.05, 0.1, 0.2, 0.3, 0.99, 1.0])
    assert rate_histogram(rates) == [2, 1, 1, 1, 1, 0, 0, 0, 0, 0, 2]
    assert sum(rate_histogram(np.zeros(0))) == 0
