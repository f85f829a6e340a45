import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import v2

from bcnet_core import masks
from bcnet_core.config.data import DataConfig
from bcnet_core.data.transforms import (
    Scene,
    crop,
    jitter_colors,
    jitter_scale,
    resize_shorter,
    target_size,
    training_steps,
)


def blank_scene(height: int, width: int) -> Scene:
    """A black image without instances."""
    pixels = np.zeros((height, width, 3), np.uint8)
    return Scene(pixels, np.zeros((0, 4)), np.zeros(0, np.int64), [], [], [], (0, 0, width, height), (height, width))


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(480, 640, (600, 800)), (400, 1000, (360, 900)), (1, 1000, (1, 900)), (600, 600, (600, 600))],
)
def test_the_shorter_side_is_fixed_and_the_longer_bounded(height: int, width: int, expected: tuple[int, int]) -> None:
    assert target_size(height, width, min_size=600, max_size=900) == expected


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("flipped", [False, True])
def test_boxes_follow_the_pixels(mirrored: bool, flipped: bool) -> None:
    scene = blank_scene(50, 100)._replace(mirrored=mirrored, flipped=flipped)
    scene.pixels[10:30, 20:40] = 255
    scene = resize_shorter(scene, np.random.default_rng(0), sizes=(100,), max_size=500)
    seen = scene.render()
    assert seen.shape == (100, 200, 3)
    (box,) = scene.placement.to_input(np.array([[20.0, 10, 40, 30]]))
    assert box[0::2].tolist() == ([120, 160] if mirrored else [40, 80])
    assert box[1::2].tolist() == ([40, 80] if flipped else [20, 60])
    rows, columns = np.nonzero(seen[:, :, 0] > 127)
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box.tolist()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_a_jittered_scene_shows_what_its_placement_says(seed: int, mirrored: bool) -> None:
    scene = blank_scene(60, 90)._replace(mirrored=mirrored)
    scene.pixels[20:40, 30:60] = 255
    scene = jitter_scale(scene, np.random.default_rng(seed), factors=(0.5, 2.0), side=120)
    height, width = scene.size
    assert max(height, width) <= 120 and 0 <= scene.window[0] < scene.window[2] <= 90 + 1e-9
    seen = scene.render()
    assert seen.shape == (height, width, 3)
    (box,) = scene.placement.to_input(np.array([[30.0, 20, 60, 40]]))
    rows, columns = np.nonzero(seen[:, :, 0] > 127)
    expected = np.clip(box, 0, [width, height] * 2)
    assert np.abs(expected - [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).max() <= 1.0


def test_large_scale_jitter_covers_its_range() -> None:
    rng = np.random.default_rng(0)
    sizes = [max(jitter_scale(blank_scene(48, 64), rng, factors=(0.1, 2.0), side=100).size) for _ in range(200)]
    assert min(sizes) < 25 and sizes.count(100) > 60


def test_an_instance_outside_of_the_window_is_dropped_and_one_across_its_edge_is_cut() -> None:
    scene = blank_scene(60, 80)
    boxes = [(5, 5, 15, 15), (30, 10, 70, 50), (40, 20, 50, 30)]
    rles = [masks.from_box(*box, 60, 80) for box in boxes]
    scene = scene._replace(
        boxes=np.array(boxes, float),
        labels=np.arange(3),
        occludees=rles,
        occluders=[None, rles[2], rles[1]],
        wholes=[None] * 3,
    )
    seen = crop(scene, (20.0, 0.0, 60.0, 40.0))
    assert seen.labels.tolist() == [1, 2]
    assert seen.boxes.tolist() == [[30, 10, 60, 40], [40, 20, 50, 30]]
    assert [masks.bounding_box(rle).tolist() for rle in seen.occludees] == [[30, 10, 30, 30], [40, 20, 10, 10]]
    assert [masks.area(rle) for rle in seen.occluders if rle] == [100, 900]
    assert crop(scene, (0.0, 0.0, 80.0, 60.0)).boxes.tolist() == scene.boxes.tolist()


def test_a_recipe_draws_the_mirror_first() -> None:
    """The order of the draws is part of the format: a seed gives the same sample in every version."""
    steps = training_steps(DataConfig(flip=1.0, train_sizes=(100, 200), min_size=100, max_size=400))
    rng, again = np.random.default_rng(5), np.random.default_rng(5)
    scene = blank_scene(50, 80)
    for step in steps:
        scene = step(scene, rng)
    again.random()
    assert scene.mirrored and min(scene.size) == (100, 200)[int(again.integers(2))]


def test_a_recipe_flips_vertically_with_its_probability() -> None:
    (_, step, _), scene = training_steps(DataConfig(flip_vertical=0.3)), blank_scene(50, 80)
    flips = [step(scene, np.random.default_rng(seed)).flipped for seed in range(300)]
    assert 60 < sum(flips) < 120


def test_colors_change_as_torchvision_changes_them() -> None:
    """The library's transform, told to draw what our generator draws, gives the same picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    scene, strengths, seen = blank_scene(20, 30)._replace(pixels=pixels), (0.4, 0.3, 0.2), set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        order = rng.permutation(3).tolist()
        factors = {number: rng.uniform(1 - strengths[number], 1 + strengths[number]) for number in order}
        drawn = {name: factors[number] for number, name in enumerate(("brightness", "contrast", "saturation"))}
        theirs = v2.ColorJitter(*strengths)
        drawn = {f"{name}_factor": factor for name, factor in drawn.items()} | {"hue_factor": None, "fn_idx": order}
        expected = np.asarray(theirs.transform(Image.fromarray(pixels), drawn))
        found = jitter_colors(scene, np.random.default_rng(seed), strengths=strengths).pixels
        assert found.dtype == np.uint8 and (found == expected).all()
        seen.add(found.tobytes())
    assert len(seen) == 20
    unchanged = jitter_colors(scene, np.random.default_rng(0), strengths=(0, 0, 0)).pixels
    assert (unchanged == pixels).all()


def test_a_step_without_effect_makes_no_choice() -> None:
    """So that recipes from before a setting keep their samples; see the order of the draws above."""
    count = len(training_steps(DataConfig()))
    settings = [{"flip_vertical": 0.5}, {"color_jitter": (0.1, 0, 0)}]
    assert count == 2 and [len(training_steps(DataConfig(**one))) for one in settings] == [3, 3]
