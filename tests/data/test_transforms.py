import numpy as np
import pytest

from bcnet_core.data.transforms import jittered_view, place, target_size, whole_view


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
    placed, placement = place(image, whole_view(50, 100, min_size=100, max_size=500), flip=flip)
    assert placed.shape == (100, 200, 3)
    (box,) = placement.to_input(np.array([[20.0, 10, 40, 30]]))
    assert box.tolist() == ([120, 20, 160, 60] if flip else [40, 20, 80, 60])
    rows, columns = np.nonzero(placed[:, :, 0] > 127)
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box.tolist()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_a_jittered_view_shows_what_its_placement_says(seed: int, flip: bool) -> None:
    image = np.zeros((60, 90, 3), np.uint8)
    image[20:40, 30:60] = 255
    view = jittered_view(np.random.default_rng(seed), 60, 90, factors=(0.5, 2.0), side=120)
    assert max(view.height, view.width) <= 120 and 0 <= view.x0 < view.x1 <= 90 + 1e-9
    placed, placement = place(image, view, flip=flip)
    assert placed.shape == (view.height, view.width, 3)
    (box,) = placement.to_input(np.array([[30.0, 20, 60, 40]]))
    rows, columns = np.nonzero(placed[:, :, 0] > 127)
    expected = np.clip(box, 0, [view.width, view.height] * 2)
    assert np.abs(expected - [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).max() <= 1.0


def test_large_scale_jitter_covers_its_range() -> None:
    rng = np.random.default_rng(0)
    sizes = [max(jittered_view(rng, 480, 640, factors=(0.1, 2.0), side=100)[4:]) for _ in range(200)]
    assert min(sizes) < 25 and sizes.count(100) > 60
