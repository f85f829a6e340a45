"""Panels and close-ups of a picture, checked by pixels."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from bcnet_core import masks
from bcnet_core.maps import MAPS
from bcnet_core.masks import RLE
from bcnet_core.visualization import closeups, draw, drawing, layout, panels
from bcnet_core.visualization.drawing import Color, Image, Mask
from bcnet_core.visualization.picture import Instance, Picture, match_truth, numbered

BOUNDARY_FACTS = Path(__file__).parents[2].parent / "shared/parity/open/boundary_open.npz"


def rectangle(x0: int, y0: int, x1: int, y1: int) -> RLE:
    return masks.from_box(x0, y0, x1, y1, 200, 300)


def two_overlapping() -> Picture:
    """A tall car, a wide bus over it, and a cup that nothing touches."""
    car, bus, cup = rectangle(100, 40, 160, 120), rectangle(60, 120, 240, 170), rectangle(10, 10, 50, 50)
    in_car_box = masks.intersection(bus, rectangle(100, 40, 160, 140))
    in_bus_box = masks.intersection(car, rectangle(60, 100, 240, 170))
    return Picture(
        "street.jpg",
        np.full((200, 300, 3), 90, np.uint8),
        numbered(
            [
                Instance("car", (100, 40, 160, 140), car, in_car_box),
                Instance("bus", (60, 100, 240, 170), bus, in_bus_box),
                Instance("cup", (10, 10, 50, 50), cup),
            ]
        ),
    )


def drawn_panels(picture: Picture, **options: Any) -> dict[str, Image]:
    """The panels in pixels of the image, which is shown twice as large."""
    scenes = panels.draw_panels(picture, size=(200, 300), **options)
    return {key: draw.paint(panel) for key, panel in scenes.items()}


def with_wholes() -> Picture:
    """The street with the whole car: its lower 20 rows are behind the bus."""
    car, *others = two_overlapping().instances
    picture, whole = two_overlapping(), rectangle(100, 40, 160, 140)
    wholes = (replace(car, whole=whole), *(replace(one, whole=one.occludee) for one in others))
    return replace(picture, instances=wholes)


def has(image: Image, color: Color) -> Mask:
    found: Mask = (image == color).all(axis=-1)
    return found


def test_five_panels_at_the_size_of_the_picture() -> None:
    picture = two_overlapping()
    rendered = panels.draw_panels(picture)
    assert [*rendered, "whole"] == list(panels.PANELS)
    assert {draw.paint(panel).shape for panel in rendered.values()} == {(400, 600, 3)}
    assert (draw.paint(rendered["image"]) == 90).all()
    assert (picture.image == 90).all()


@pytest.mark.parametrize(
    ("size", "shown"),
    [((100, 150), (300, 450)), ((2000, 3000), (853, 1280)), ((400, 600), (400, 600)), ((1, 9000), (1, 1280))],
)
def test_small_images_are_enlarged_and_large_ones_shrunk(size: tuple[int, int], shown: tuple[int, int]) -> None:
    assert panels.display_size(*size) == shown


def test_each_panel_draws_its_layer() -> None:
    drawn = drawn_panels(two_overlapping())
    car, bus, cup = (drawing.instance_color(index) for index in range(3))
    ground = draw.dim(np.full((1, 1, 3), 90, np.uint8))[0, 0]
    assert has(drawn["instances"], cup)[10, 30]
    assert (drawn["occludee"][25, 30] == ground).all()  # nothing overlaps the cup
    assert has(drawn["occludee"], car)[40, 130]
    assert has(drawn["occludee"], bus)[169, 230]
    assert has(drawn["occluder"], bus)[120, 130]  # the bus, where it is in the box of the car
    assert (drawn["occluder"][165, 230] == ground).all()  # and not elsewhere
    assert (drawn["occluder"][60, 130] == ground).all()
    assert has(drawn["occluder"], car)[119, 130]  # the car, where it is in the box of the bus


@pytest.mark.parametrize("boxes", [False, True])
def test_boxes_are_drawn_on_request_and_where_they_differ_from_the_masks(boxes: bool) -> None:
    mask = rectangle(10, 20, 60, 80)
    fits, corners = Instance("a", (11, 19, 60, 80), mask), Instance("b", (200, 30, 250, 90), rectangle(150, 0, 200, 60))
    outside, flat = (
        Instance("c", (280, 150, 400, 190), None),
        Instance("d", (90, 20, 90, 20), rectangle(80, 100, 99, 120)),
    )
    gone = Instance("e", (500, 0, 600, 90), rectangle(240, 150, 260, 160))
    true = numbered([fits, corners, outside, flat, gone])
    assert [one.box_differs for one in true] == [False, True, True, True, True]
    found = numbered([replace(corners, score=0.9)])
    drawn = drawn_panels(Picture("a", np.full((200, 300, 3), 90, np.uint8), found, true), boxes=boxes)
    colors = [drawing.instance_color(index) for index in range(4)]
    assert has(drawn["true-instances"], colors[1])[30:90, 200:202].all()
    assert has(drawn["true-instances"], colors[1])[88:90, 200:250].all()
    assert not has(drawn["true-instances"], colors[1])[60:88, 202:248].any()
    assert has(drawn["true-instances"], colors[2])[150:190, 280].all()
    assert not has(drawn["true-instances"], colors[2])[160:180, 299].any()  # the box goes on outside of the image
    assert has(drawn["true-instances"], colors[3])[20, 90]
    assert has(drawn["true-instances"], colors[0])[19, 20:50].all() == boxes
    assert has(drawn["instances"], colors[0])[60:90, 200:202].all() == boxes  # detections: on request alone
    assert not any(has(drawn[f"true-{key}"], colors[1])[70:90, 200].any() for key in ("occludee", "occluder"))


def test_boundaries_do_not_follow_the_border_of_the_box() -> None:
    drawn = drawn_panels(two_overlapping())["boundaries"]
    occludee, occluder = has(drawn, drawing.OCCLUDEE), has(drawn, drawing.OCCLUDER)
    assert occludee[40:42, 100:160].all()  # the top of the car
    assert not occludee[60, 130]
    assert occluder[122:125, 105:155].all()  # the occluder of the car begins where the bus does
    assert not occluder[130:140, 110:150].any()  # its lower end is only the end of the box


def test_one_layer_alone() -> None:
    picture = two_overlapping()
    for layer, other in (("occludee", "occluder"), ("occluder", "occludee")):
        rendered = panels.draw_panels(picture, layer=layer)
        assert layer in rendered and other not in rendered
        edges = draw.paint(rendered["boundaries"])
        colors = {"occludee": drawing.OCCLUDEE, "occluder": drawing.OCCLUDER}
        assert has(edges, colors[layer]).any() and not has(edges, colors[other]).any()
        (row,) = closeups.roi_card(picture, 0, layer=layer).rows
        assert [tile.caption for tile in row][1:] == [f"{layer} boundary", f"{layer} mask"]


def test_predicted_occluders_without_an_owner_are_drawn() -> None:
    layers = Instance("car", (100, 40, 160, 140), rectangle(100, 60, 160, 140), rectangle(100, 40, 130, 60))
    drawn = drawn_panels(Picture("a", np.full((200, 300, 3), 90, np.uint8), (layers,)))["occluder"]
    assert has(drawn, drawing.INK)[40, 100:130].all()
    assert not has(drawn, drawing.instance_color(0)).any()


def with_truth() -> Picture:
    """The car was found, a little too small; the bus and the cup were missed; a second car is not there."""
    truth = two_overlapping().instances
    found = [
        Instance("car", (200, 10, 240, 50), rectangle(200, 10, 240, 50), score=0.9),
        Instance("car", (100, 40, 160, 140), rectangle(100, 40, 160, 100), score=0.6),
        Instance("car", (100, 40, 160, 140), rectangle(100, 40, 160, 80), score=0.5),
        Instance("cup", (60, 100, 240, 170), truth[1].occludee, score=0.5),
    ]
    instances, true = match_truth(
        found, (*truth, Instance("car", (0, 0, 300, 200), rectangle(0, 0, 300, 200), crowd=True))
    )
    return Picture("street.jpg", np.full((200, 300, 3), 90, np.uint8), instances, true)


def test_detections_are_matched_with_the_ground_truth() -> None:
    picture = with_truth()
    car, bus, cup, crowd = picture.truth or ()
    assert [layers.truth for layers in picture.instances] == [None, car, None, None]
    assert [layers.iou for layers in picture.instances] == [0, pytest.approx(60 / 80), 0, 0]
    assert [layers.color for layers in picture.instances] == [0, 1, 2, 3]
    assert car.color == 1 and sorted([bus.color, cup.color, crowd.color]) == [4, 5, 6]
    assert picture.missed == (bus, cup)  # a crowd is not to be found
    assert picture.instances[1].level == car.level == "heavy" == two_overlapping().instances[0].level
    assert [layers.label for layers in (picture.instances[0], car, crowd)] == ["car 0.90", "car", "car (crowd)"]
    assert match_truth((), (car,)) == ((), (replace(car, color=0),))
    assert match_truth((picture.instances[0],), ())[0][0].iou == 0


def test_true_panels_follow_predicted_ones() -> None:
    scenes = panels.draw_panels(with_truth())
    keys = list(scenes)
    assert keys[:3] == ["image", "instances", "true-instances"] and len(keys) == 9
    assert [panels.panel_title(key) for key in keys[-2:]] == ["boundaries", "true boundaries"]
    drawn = drawn_panels(with_truth())
    found, true = (has(drawn[key], drawing.instance_color(1)) for key in ("instances", "true-instances"))
    assert found[98:100, 101:159].all() and not found[118:120, 101:159].any()  # the same color, its own mask
    assert true[118:120, 101:159].all()


def test_an_roi_shows_predicted_and_true_maps_side_by_side() -> None:
    picture = with_truth()
    card = closeups.roi_card(picture, 1)
    assert [[tile.caption for tile in row] for row in card.rows] == [
        ["box", "occluder boundary", "true", "occluder mask", "true"],
        ["both layers", "occludee boundary", "true", "occludee mask", "true"],
    ]
    predicted, true = (card.rows[1][place].content for place in (3, 4))
    assert isinstance(predicted, np.ndarray) and isinstance(true, np.ndarray)
    assert predicted.mean() == pytest.approx(0.6, abs=0.03) and true.mean() == pytest.approx(0.8, abs=0.03)
    alone = closeups.roi_card(picture, 0)
    assert [tile.caption for tile in alone.rows[1]][2::2] == ["no true one"] * 2
    assert alone.rows[1][2].content is None


def test_rois_are_the_most_occluded_and_tiny_ones_come_last() -> None:
    instances = list(two_overlapping().instances)
    tiny = rectangle(100, 100, 105, 105)
    instances.append(Instance("ant", (100, 100, 105, 105), tiny, tiny))
    assert instances[3].occlusion == 1
    assert instances[0].occlusion == pytest.approx(60 * 20 / (60 * 100))
    assert closeups.choose_rois(instances, 4) == [0, 1, 2, 3]
    assert closeups.choose_rois(instances, 1) == [0]
    assert closeups.choose_rois([], 3) == []


def test_an_roi_shows_the_predicted_maps() -> None:
    picture = two_overlapping()
    levels = [np.full((28, 28), value, np.float32) for value in (0.1, 0.4, 0.6, 0.9, 0.75)]
    maps = {spec.name: level for spec, level in zip(MAPS, levels, strict=True)}
    layers = Instance("car", (100, 40, 160, 140), picture.instances[0].occludee, None, score=0.5, maps=maps)
    card = draw.paint(closeups.roi_card(Picture("a", picture.image, (layers,)), 0))
    for level in levels:
        color = tuple(int(part) for part in draw.heatmap(level)[0, 0])
        assert has(card, color).sum() >= 168 * 100
    without = {"occludee_boundary": levels[0], "occludee_mask": levels[1]}
    card_of_one = closeups.roi_card(Picture("a", picture.image, (replace(layers, maps=without),)), 0)
    assert [tile.caption for tile in card_of_one.rows[0]] == ["box", "no occluder boundary", "no occluder mask"]


def test_an_roi_is_cropped_from_the_original_image() -> None:
    image = np.zeros((3000, 4000, 3), np.uint8)
    image[1000:1100, 1000:1100] = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
    box = (1000.0, 1000.0, 1100.0, 1100.0)
    layers = Instance("ant", box, masks.from_box(1000, 1000, 1100, 1100, 3000, 4000))
    tile = closeups.roi_card(Picture("a", image, (layers,)), 0).rows[0][0].content
    assert isinstance(tile, drawing.Drawing)
    assert (tile.ground == draw.resize_image(image[1000:1100, 1000:1100], (168, 168))).all()


def test_an_roi_of_a_sliver_at_the_border_stays_legible() -> None:
    layers = Instance("pole", (298.4, -3, 300, 210), rectangle(298, 0, 300, 200))
    card = closeups.roi_card(Picture("a", np.zeros((200, 300, 3), np.uint8), (layers,)), 0)
    assert card.size == (168, 56)
    assert layout.lay_out(card).width > 3 * 100


def test_maps_of_masks_match_training_targets() -> None:
    car = two_overlapping().instances[0]
    maps = closeups.maps_of_masks(car, car.box)
    assert maps["occludee_mask"].mean() == pytest.approx(0.8, abs=0.03)
    assert maps["occluder_mask"].mean() == pytest.approx(0.2, abs=0.03)
    assert (maps["occludee_mask"] + maps["occluder_mask"] == 1).all()
    assert maps["occludee_boundary"].sum(axis=0).tolist() == [2] * 28  # the contact line, and no border of the box
    assert (maps["occludee_boundary"] == maps["occluder_boundary"]).all()
    assert closeups.maps_of_masks(replace(car, occluder=None), car.box)["occluder_boundary"].max() == 0


def test_true_maps_have_the_cells_of_the_predicted_ones() -> None:
    car = two_overlapping().instances[0]
    maps = closeups.maps_of_masks(car, car.box, side=56)
    assert maps["occludee_boundary"].sum(axis=0).tolist() == [4] * 56


@pytest.mark.skipif(not BOUNDARY_FACTS.exists(), reason="needs ../shared")
def test_boundaries_agree_with_the_official_ones() -> None:
    facts = np.load(BOUNDARY_FACTS)
    for mask, boundary in zip(facts["masks"], facts["boundary"], strict=True):
        maps = closeups.maps_of_masks(Instance("a", (0, 0, 28, 28), masks.encode(mask)), (0, 0, 28, 28))
        assert (maps["occludee_boundary"].astype(bool) == boundary).all()


def test_a_missing_image_gives_one_panel_with_its_name() -> None:
    picture = Picture("lost.jpg", np.zeros((200, 300, 3), np.uint8), fault="the image does not exist")
    rendered = panels.draw_panels(picture)
    assert list(rendered) == ["image"]
    placeholder = draw.paint(rendered["image"])
    assert placeholder.min() < 60  # something is written on it
    assert (placeholder == placeholder[0, 0]).mean() > 0.8


def test_a_picture_without_instances_is_drawn() -> None:
    rendered = panels.draw_panels(Picture("a", np.full((20, 30, 3), 90, np.uint8)))
    assert (draw.paint(rendered["instances"]) == 90).all()


def test_hidden_parts_are_hatched_beneath_what_hides_them() -> None:
    assert "whole" not in panels.draw_panels(two_overlapping(), order=True)
    assert "whole" not in panels.draw_panels(with_wholes(), layer="occluder")
    assert "whole" in panels.draw_panels(with_wholes(), layer="occludee")
    picture = with_wholes()
    ground = draw.dim(np.full((1, 1, 3), 90, np.uint8))[0, 0].astype(float)
    car, bus = (np.array(drawing.instance_color(index)) for index in range(2))
    drawn = drawn_panels(picture)["whole"].astype(float)
    hidden = drawn[123:137, 103:157]  # without the outlines
    beneath_bus = [0.65 * color + 0.35 * bus for color in (car, ground)]
    lined, plain = (np.abs(hidden - color).max(axis=2) <= 1 for color in beneath_bus)
    assert (lined | plain).all() and lined.mean() == pytest.approx(1 / 4, abs=0.02)
    assert np.abs(drawn[150, 200] - beneath_bus[1]).max() <= 1
    assert np.abs(drawn[80, 130] - (0.65 * ground + 0.35 * car)).max() <= 1
    assert has(drawn_panels(picture)["whole"], drawing.instance_color(1))[120, 62:238].all()  # the bus is outlined


def test_arrows_lead_from_the_front_to_the_part_that_it_hides() -> None:
    picture = with_wholes()
    assert panels.draw_panels(picture, size=(200, 300))["whole"].arrows == ()
    (arrow,) = panels.draw_panels(picture, size=(200, 300), order=True)["whole"].arrows
    assert arrow.tail == (150, 145)
    assert arrow.tip == pytest.approx((130, 130))  # the hidden part, 25 pixels away
    (doubled,) = panels.draw_panels(picture, size=(400, 600), order=True)["whole"].arrows
    assert doubled.tail == (300, 290) and doubled.tip == pytest.approx((260, 260))
    car, bus, cup = picture.instances
    told = replace(picture, instances=(replace(car, hides=(2,)), bus, cup))
    said, found = panels.draw_panels(told, size=(200, 300), order=True)["whole"].arrows
    assert (said.tail, said.tip) == ((130, 80), (30, 30)) and found == arrow  # what a file says, then what masks tell
    against = replace(picture, instances=(replace(car, hides=(1,)), bus, cup))
    (reverse,) = panels.draw_panels(against, size=(200, 300), order=True)["whole"].arrows
    assert reverse.tail == (130, 80)


def test_short_arrows_are_lengthened_towards_what_is_behind() -> None:
    plate = rectangle(50, 50, 250, 150)
    dot, rest = rectangle(140, 90, 160, 110), masks.intersection(plate, masks.complement(rectangle(140, 90, 160, 110)))
    pair = numbered(
        [Instance("plate", (50, 50, 250, 150), rest, whole=plate), Instance("dot", (140, 90, 160, 110), dot, whole=dot)]
    )
    picture = Picture("a", np.full((200, 300, 3), 90, np.uint8), pair)
    (arrow,) = panels.draw_panels(picture, size=(200, 300), order=True)["whole"].arrows
    assert arrow.tail == (150, 100) and np.hypot(*np.subtract(arrow.tip, arrow.tail)) == pytest.approx(panels.SHORTEST)
    gone = (replace(pair[0], occludee=rectangle(0, 0, 0, 0), whole=dot), pair[1])
    drawn = panels.draw_panels(replace(picture, instances=gone), size=(200, 300), order=True)["whole"]
    assert drawn.arrows == (drawing.Arrow((150, 100), (150, 100 + panels.SHORTEST)),)
    assert [shape.label for shape in drawn.shapes if shape.hatched] == ["plate"]  # nothing of it is visible


def test_a_close_up_encloses_the_hidden_part_and_shows_the_whole_mask() -> None:
    bus_ahead = Instance("car", (100, 40, 160, 120), rectangle(100, 40, 160, 120), whole=rectangle(100, 40, 160, 140))
    assert bus_ahead.roi == (100, 40, 160, 140) and bus_ahead.occlusion_rate == pytest.approx(0.2)
    picture = Picture("a", np.full((200, 300, 3), 90, np.uint8), (bus_ahead,))
    card = closeups.roi_card(picture, 0)
    assert [[tile.caption for tile in row] for row in card.rows] == [
        ["box", "occluder boundary", "occluder mask"],
        ["both layers", "occludee boundary", "occludee mask", "whole mask"],
    ]
    visible, whole = (tile.content for tile in card.rows[1][2:])
    assert isinstance(visible, np.ndarray) and visible.mean() == pytest.approx(0.8, abs=0.03)
    assert isinstance(whole, np.ndarray) and whole.all()
    content = card.rows[1][0].content
    assert isinstance(content, drawing.Drawing) and [shape.hatched for shape in content.shapes] == [False, True]
    (first, _), (second, _) = layout.lay_out(card).bars
    assert second - first == card.size[1] + layout.GAP  # rows end where their maps do
    (row,) = closeups.roi_card(picture, 0, layer="occluder").rows
    assert [tile.caption for tile in row][1:] == ["occluder boundary", "occluder mask"]


def test_a_predicted_whole_mask_is_beside_the_true_one() -> None:
    names = ("occludee_mask", "amodal_mask")
    box = (100.0, 40.0, 160.0, 160.0)
    maps = {name: np.full((28, 28), 0.5, np.float32) for name in names}
    true = with_wholes().instances[:1]
    found = Instance("car", box, rectangle(100, 40, 160, 110), score=0.9, maps=maps, whole=rectangle(100, 40, 160, 150))
    assert found.roi == box  # its maps fill it
    for known, title in ((true, "true"), ((replace(true[0], whole=None),), "no true one")):
        instances, truth = match_truth([found], known)
        card = closeups.roi_card(Picture("a", np.full((200, 300, 3), 90, np.uint8), instances, truth), 0)
        assert [tile.caption for tile in card.rows[1]][-2:] == ["whole mask", title]
        content = card.rows[1][-1].content
        assert (content is None) == (title == "no true one")
        if isinstance(content, np.ndarray):
            assert content.mean() == pytest.approx(100 / 120, abs=0.03)  # of the predicted box


LARGE = """
import resource, sys
import numpy as np
from pathlib import Path
from bcnet_core import masks
from bcnet_core.files.images import read_image
from bcnet_core.visualization.gallery import write_gallery
from bcnet_core.visualization.picture import Instance, Picture, numbered

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

folder, rng = Path(sys.argv[1]), np.random.default_rng(0)
layers = []
for _ in range(300):
    x, y, w, h = rng.integers(0, (7000, 4000, 1500, 1500)).tolist()
    rle, region = (masks.from_box(x, y, x + side, y + h, 4320, 7680) for side in (w + 9, w // 2 + 5))
    layers.append(Instance("person", (x, y, min(x + w, 7680), min(y + h, 4320)), rle, region))
warm = Picture("warm", np.zeros((64, 64, 3), np.uint8))
(folder / "warm").mkdir()
write_gallery(folder / "warm", [warm], title="t", total=1)
image = read_image(folder / "large.png")
before = peak()
(folder / "out").mkdir()
write_gallery(folder / "out", [Picture("large", image, numbered(layers))], title="t", total=1)
print(image.nbytes, peak() - before)
"""


@pytest.mark.slow
def test_three_hundred_instances_of_a_large_image_take_no_more_memory_than_the_image(tmp_path: Path) -> None:
    PillowImage.new("RGB", (7680, 4320), (90, 120, 150)).save(tmp_path / "large.png", compress_level=1)
    done = subprocess.run(
        [sys.executable, "-c", LARGE, tmp_path], capture_output=True, text=True, check=True, timeout=300
    )
    of_image, more = map(int, done.stdout.split())
    assert of_image == 7680 * 4320 * 3 and more < of_image, f"{more / 1e6:.0f} MB more than reading it took"
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 8
