import numpy as np
import pytest

from bcnet_core.data.transforms import place, target_size


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(480, 640, (600, 800)), (400, 1000, (360, 900)), (1, 1000, (1, 900)), (600, 600, (600, 600))],
)
def test_the_shorter_side_is_fixed_and_the_longer_bounded(height: int, width: int, expected: tuple[int, int]) -> None:
    assert target_size(height, width, min_size=600, max_size=900) == expected


@pytest.mark.parametrize("flip", [False, True])
def test_boxes_follow_the_pixels(flip: bool) -> None:
    image = np.zeros((50, 100, 3), np.uint8)
    image[10:30, 20:40] = 255
    placed, placement = place(image, min_size=100, max_size=500, flip=flip)
    assert placed.shape == (100, 200, 3)
    (box,) = placement.to_input(np.array([[20.0, 10, 40, 30]]))
    assert box.tolist() == ([120, 20, 160, 60] if flip else [40, 20, 80, 60])
    rows, columns = np.nonzero(placed[:, :, 0] > 127)
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box.tolist()
