"""Occlusion rates against a dense reference and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.occlusion.rates import MEASURES, Measure, occlusion_rates, pair_rates, rate_histogram

H, W = 16, 24
WHOLE_BOXES = st.lists(
    st.tuples(st.integers(0, W - 1), st.integers(0, H - 1), st.integers(0, 12), st.integers(0, 12)), max_size=6
)


def dense_boxes(boxes: list[tuple[int, int, int, int]]) -> NDArray[np.bool_]:
    dense = np.zeros((len(boxes), 40, 40), dtype=bool)
    for mask, (x, y, w, h) in zip(dense, boxes, strict=True):
        mask[y : y + h, x : x + w] = True
    return dense


def reference(boxes: list[tuple[int, int, int, int]], measure: Measure) -> list[float]:
    """Whole boxes filled with pixels; the mask of an instance is its box within the image."""
    dense = dense_boxes(boxes)
    rates = []
    for i, one in enumerate(dense):
        best = 0.0
        for j, other in enumerate(dense):
            shared = (one & other).sum()
            if i == j or shared == 0:
                continue
            within = (one & other)[:H, :W].sum() / one[:H, :W].sum()
            iou = shared / (one | other).sum()
            best = max(best, {"iou": iou, "min": shared / min(one.sum(), other.sum()), "mask": within}[measure])
        rates.append(best)
    return rates


@settings(max_examples=150, deadline=None)
@given(WHOLE_BOXES, st.sampled_from(MEASURES))
def test_equals_the_dense_reference(boxes: list[tuple[int, int, int, int]], measure: Measure) -> None:
    rles = [masks.encode(mask[:H, :W]) for mask in dense_boxes(boxes)]
    found = occlusion_rates(np.array(boxes, dtype=np.float64).reshape(-1, 4), rles, H, W, measure=measure)
    np.testing.assert_allclose(found, reference(boxes, measure), atol=1e-12)


def test_by_hand() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [5, 0, 10, 10], [0, 0, 5, 4]])
    mask = masks.from_box(5, 0, 8, 10, H, W)
    assert occlusion_rates(boxes, [None] * 3, H, W, measure="iou").tolist() == [50 / 150, 50 / 150, 20 / 100]
    assert occlusion_rates(boxes, [None] * 3, H, W, measure="min").tolist() == [1, 0.5, 1]
    assert occlusion_rates(boxes, [None, mask, None], H, W, measure="mask").tolist() == [0.3, 0, 0]


@pytest.mark.parametrize("measure", MEASURES)
def test_nobody_and_one_alone(measure: Measure) -> None:
    assert occlusion_rates(np.zeros((0, 4)), [], H, W, measure=measure).tolist() == []
    assert occlusion_rates(np.array([[0.0, 0, 5, 5]]), [None], H, W, measure=measure).tolist() == [0]


@settings(max_examples=50, deadline=None)
@given(WHOLE_BOXES, st.sampled_from(["iou", "min"]))
def test_box_measures_are_symmetric(boxes: list[tuple[int, int, int, int]], measure: Measure) -> None:
    pairs = pair_rates(np.array(boxes, dtype=np.float64).reshape(-1, 4), [None] * len(boxes), H, W, measure=measure)
    assert (pairs == pairs.T).all()


def test_histogram() -> None:
    rates = np.array([0, 0, 0.05, 0.1, 0.2, 0.3, 0.99, 1.0])
    assert rate_histogram(rates) == [2, 1, 1, 1, 1, 0, 0, 0, 0, 0, 2]
    assert sum(rate_histogram(np.zeros(0))) == 0
