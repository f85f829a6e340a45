"""Windows and label images give the masks, and masks the windows, that encoding and decoding as a whole give."""

import tracemalloc

import numpy as np

from bcnet_core import masks


def test_masks_of_a_label_image_are_those_of_each_value() -> None:
    random = np.random.default_rng(0)
    for shape in ((5, 5), (1, 1), (7, 9), (3, 1), (1, 8)):
        for _ in range(20):
            image = random.integers(0, 4, shape)
            expected = {value: masks.encode(image == value) for value in np.unique(image).tolist() if value}
            assert masks.from_labels(image) == expected
    assert masks.from_labels(np.full((3, 4), 40_000, np.uint16)) == {40_000: masks.encode(np.ones((3, 4), bool))}


def test_the_complement_has_the_other_pixels() -> None:
    random = np.random.default_rng(3)
    for _ in range(300):
        mask = random.random(random.integers(1, 12, 2)) < random.choice([0, 0.2, 0.5, 0.9, 1])
        assert masks.complement(masks.encode(mask)) == masks.encode(~mask)


def test_a_window_is_encoded_where_it_lies_and_cut_at_the_edges() -> None:
    random = np.random.default_rng(1)
    height, width = 7, 9
    for _ in range(300):
        x, y = random.integers(-6, 11, 2).tolist()
        window = random.random(random.integers(1, 6, 2)) < random.choice([0.3, 0.7, 1.0])
        padded = np.zeros((height + 40, width + 40), bool)
        padded[20 + y : 20 + y + window.shape[0], 20 + x : 20 + x + window.shape[1]] = window
        expected = masks.encode(padded[20 : 20 + height, 20 : 20 + width])
        assert masks.from_window(window, x, y, height, width) == expected


def test_a_decoded_window_is_that_part_of_the_mask() -> None:
    random = np.random.default_rng(2)
    for _ in range(500):
        mask = random.random(random.integers(1, 12, 2)) < random.choice([0, 0.2, 0.5, 0.9, 1])
        (y0, y1), (x0, x1) = (sorted(random.integers(0, side + 1, 2).tolist()) for side in mask.shape)
        window = masks.decode_window(masks.encode(mask), x0, y0, x1, y1)
        assert window.dtype == bool and np.array_equal(window, mask[y0:y1, x0:x1])


def test_the_memory_of_a_decoded_window_is_that_of_the_window() -> None:
    side = 30_000
    polygon = [100.0, 100.0, side - 100.0, 200.0, 300.0, side - 100.0]
    rle = masks.from_polygons([polygon], side, side)
    tracemalloc.start()
    window = masks.decode_window(rle, 100, 100, 300, 400)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert window.any() and not window.all()
    assert peak < 20e6, "the image has 900 MB"


def test_shared_pixels_are_those_of_dense_masks() -> None:
    random = np.random.default_rng(4)
    dense = random.random((9, 7, 11)) < random.random((9, 1, 1))
    dense[0], dense[1] = False, True
    rles = [masks.encode(mask) for mask in dense]
    assert np.array_equal(masks.overlaps(rles[:5], rles), (dense[:5, None] & dense).sum((2, 3)))
    assert masks.overlaps([], rles).shape == (0, 9) and masks.overlaps(rles, []).shape == (9, 0)
    for one, other in zip(dense, dense[::-1], strict=True):
        assert masks.difference(masks.encode(one), masks.encode(other)) == masks.encode(one & ~other)
