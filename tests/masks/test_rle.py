"""Masks from label images and from windows are those that encoding each as a whole gives."""

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
