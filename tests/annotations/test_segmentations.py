"""Segmentations that would crash pycocotools or that it would misread are rejected or repaired."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from bcnet_core import masks
from bcnet_core.annotations.coco import segmentation_rle
from bcnet_core.errors import BCNetError, ExitCode
from tests.conftest import examples


@examples(200)
@given(st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(lambda shape: arrays(np.bool_, shape)))
def test_runs_of_compressed_counts(mask: NDArray[np.bool_]) -> None:
    flat = np.concatenate([[False], mask.T.ravel()])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    expected = np.diff(np.concatenate([[0], changes, [mask.size]]))
    found = masks.runs(masks.encode(mask)["counts"])
    assert found.tolist() == expected[: len(found)].tolist()
    assert found.sum() == mask.size


@examples(300)
@given(st.binary(max_size=12) | st.text("0123456789:;PQRo`zX", max_size=12))
def test_damaged_compressed_counts_never_reach_pycocotools(counts: bytes | str) -> None:
    try:
        rle = masks.from_segmentation({"size": [4, 5], "counts": counts}, 4, 5)
    except ValueError:
        return
    assert rle is not None
    assert masks.decode(rle).sum() == masks.area(rle) <= 20


@pytest.mark.parametrize(
    "counts", ["", "zzzz", "o", "1" * 50, [1, 2], [21, -1], [10.0, 10.0], [True, 19], None, 20, "é"]
)
def test_invalid_counts_are_errors(counts: object) -> None:
    with pytest.raises(ValueError, match="RLE"):
        masks.from_segmentation({"size": [4, 5], "counts": counts}, 4, 5)


@pytest.mark.parametrize("coordinate", [float("nan"), float("inf"), 1e7, -1e300, 10**400])
def test_extreme_coordinates_are_errors(coordinate: float) -> None:
    for polygon in ([coordinate, 0, 5, 0, 5, 5], [5, 5, 0, coordinate, 5, 0]):
        with pytest.raises(ValueError, match="coordinate"):
            masks.from_segmentation([polygon], 10, 10)


def test_empty_runs_do_not_truncate_a_mask() -> None:
    striped = {"size": [4, 4], "counts": [0, 4, 0, 4, 0, 4, 4]}
    rle = masks.from_segmentation(striped, 4, 4)
    assert rle is not None
    assert masks.area(rle) == 12
    assert masks.area(masks.union([rle, rle])) == 12
    full_height = masks.from_box(0, 0, 3, 4, 4, 4)
    assert masks.area(masks.intersection(full_height, full_height)) == 12


def test_the_error_names_annotation_and_image() -> None:
    annotation = {"id": 7, "segmentation": {"size": [4, 4], "counts": "zzz"}}
    with pytest.raises(BCNetError, match=r"annotation 7 \(image 3\)") as caught:
        segmentation_rle(annotation, {"id": 3, "height": 4, "width": 4})
    assert caught.value.exit_code == ExitCode.BAD_DATA
