"""The panels of a picture, judged by pixels."""

from pathlib import Path

import numpy as np
import pytest

from bcnet_core.visualization import draw, panels
from bcnet_core.visualization.panels import Layers, Maps, Picture

BOUNDARY_FACTS = Path(__file__).parents[2].parent / "shared/parity/open/boundary_open.npz"


def rectangle(x0: int, y0: int, x1: int, y1: int) -> draw.Mask:
    mask = np.zeros((200, 300), np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def two_overlapping() -> Picture:
    """A tall car, a wide bus over it, and a cup that nothing touches."""
    car, bus, cup = rectangle(100, 40, 160, 120), rectangle(60, 120, 240, 170), rectangle(10, 10, 50, 50)
    in_car_box, in_bus_box = bus & rectangle(100, 40, 160, 140), car & rectangle(60, 100, 240, 170)
    return Picture(
        "street.jpg",
        np.full((200, 300, 3), 90, np.uint8),
        (
            Layers("car", (100, 40, 160, 140), car, in_car_box),
            Layers("bus", (60, 100, 240, 170), bus, in_bus_box),
            Layers("cup", (10, 10, 50, 50), cup),
        ),
    )


def has(image: draw.Image, colour: draw.Colour) -> draw.Mask:
    found: draw.Mask = (image == colour).all(axis=-1)
    return found


def test_five_panels_as_large_as_the_image() -> None:
    picture = two_overlapping()
    rendered = panels.render(picture)
    assert list(rendered.panels) == list(panels.PANELS)
    assert {panel.shape for panel in rendered.panels.values()} == {(200, 300, 3)}
    assert (rendered.panels["image"] == picture.image).all()
    assert (picture.image == 90).all()


def test_layers_are_where_they_belong() -> None:
    rendered = panels.render(two_overlapping()).panels
    car, bus, cup = (draw.instance_colour(index) for index in range(3))
    ground = draw.dim(np.full((1, 1, 3), 90, np.uint8))[0, 0]
    assert has(rendered["instances"], cup)[10, 30]
    assert (rendered["occludee"][25, 30] == ground).all()  # nothing overlaps the cup
    assert has(rendered["occludee"], car)[40, 130]
    assert has(rendered["occludee"], bus)[169, 230]
    assert has(rendered["occluder"], bus)[120, 130]  # the bus, where it is in the box of the car
    assert (rendered["occluder"][165, 230] == ground).all()  # and not elsewhere
    assert (rendered["occluder"][60, 130] == ground).all()
    assert has(rendered["occluder"], car)[119, 130]  # the car, where it is in the box of the bus


def test_boundaries_of_both_layers_without_the_cut_of_the_box() -> None:
    drawn = panels.render(two_overlapping()).panels["boundaries"]
    occludee, occluder = has(drawn, draw.OCCLUDEE), has(drawn, draw.OCCLUDER)
    assert occludee[40:42, 100:160].all()  # the top of the car
    assert not occludee[60, 130]
    assert occluder[122:125, 105:155].all()  # the occluder of the car begins where the bus does
    assert not occluder[130:140, 110:150].any()  # its lower end is only the end of the box


def test_predicted_occluders_that_no_instance_owns_are_shown_too() -> None:
    region = rectangle(100, 40, 130, 60)
    layers = Layers("car", (100, 40, 160, 140), rectangle(100, 60, 160, 140), region)
    drawn = panels.render(Picture("a", np.full((200, 300, 3), 90, np.uint8), (layers,))).panels["occluder"]
    assert has(drawn, draw.INK)[40, 100:130].all()
    assert not has(drawn, draw.instance_colour(0)).any()


def test_closeups_are_the_most_occluded_and_not_tiny() -> None:
    instances = list(two_overlapping().instances)
    tiny = rectangle(100, 100, 105, 105)
    instances.append(Layers("ant", (100, 100, 105, 105), tiny, tiny))
    assert instances[3].occlusion == 1
    assert instances[0].occlusion == pytest.approx(60 * 20 / (60 * 100))
    assert panels.choose_closeups(instances, 4) == [0, 1, 2, 3]
    assert panels.choose_closeups(instances, 1) == [0]
    assert panels.choose_closeups([], 3) == []


def test_a_closeup_shows_the_maps_that_were_predicted() -> None:
    picture = two_overlapping()
    levels = [np.full((28, 28), value, np.float32) for value in (0.1, 0.4, 0.6, 0.9)]
    layers = Layers("car", (100, 40, 160, 140), picture.instances[0].occludee, None, 0.5, Maps(*levels))
    card = panels.closeup(Picture("a", picture.image, (layers,)), 0)
    for level in levels:
        colour = tuple(int(part) for part in draw.heatmap(level, (1, 1))[0, 0])
        assert has(card, colour).sum() >= 168 * 100


def test_a_closeup_of_a_sliver_at_the_border_stays_legible() -> None:
    mask = rectangle(298, 0, 300, 200)
    card = panels.closeup(
        Picture("a", np.zeros((200, 300, 3), np.uint8), (Layers("pole", (298.4, -3, 300, 210), mask),)), 0
    )
    assert card.shape[1] > 3 * panels.CLOSEUP_SIDE // 3


def test_maps_of_masks_are_what_training_sees() -> None:
    picture = two_overlapping()
    car = picture.instances[0]
    maps = panels.maps_of_masks(car.occludee, car.occluder, car.box)
    assert maps.occludee_mask.mean() == pytest.approx(0.8, abs=0.03)
    assert maps.occluder_mask.mean() == pytest.approx(0.2, abs=0.03)
    assert (maps.occludee_mask + maps.occluder_mask == 1).all()
    assert maps.occludee_boundary.sum(axis=0).tolist() == [2] * 28  # the contact line, and no border of the box
    assert (maps.occludee_boundary == maps.occluder_boundary).all()
    assert panels.maps_of_masks(car.occludee, None, car.box).occluder_boundary.max() == 0


@pytest.mark.skipif(not BOUNDARY_FACTS.exists(), reason="needs ../shared")
def test_boundaries_agree_with_the_official_ones() -> None:
    facts = np.load(BOUNDARY_FACTS)
    for mask, boundary in zip(facts["masks"], facts["boundary"], strict=True):
        maps = panels.maps_of_masks(mask, None, (0, 0, 28, 28))
        assert (maps.occludee_boundary.astype(bool) == boundary).all()


def test_a_missing_image_is_one_named_panel() -> None:
    picture = Picture("lost.jpg", np.zeros((200, 300, 3), np.uint8), fault="the image does not exist")
    rendered = panels.render(picture)
    assert list(rendered.panels) == ["image"]
    assert rendered.closeups == ()
    placeholder = rendered.panels["image"]
    assert placeholder.min() < 60  # something is written on it
    assert (placeholder == placeholder[0, 0]).mean() > 0.8


def test_nothing_to_show_is_no_problem() -> None:
    rendered = panels.render(Picture("a", np.full((20, 30, 3), 90, np.uint8)))
    assert (rendered.panels["instances"] == 90).all()
    assert rendered.closeups == ()
