"""SVG: the shapes of the pixels, text as text, and all names escaped."""

import base64
import re
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bcnet_core import masks
from bcnet_core.visualization import draw, drawing
from bcnet_core.visualization.draw import to_svg
from bcnet_core.visualization.drawing import Arrow, Card, Drawing, Patch, Shape, Tile

NAMES = {"svg": "http://www.w3.org/2000/svg"}


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def gray(height: int, width: int) -> drawing.Image:
    return np.full((height, width, 3), 100, np.uint8)


def covered(path: str, height: int, width: int) -> drawing.Mask:
    """The pixels inside a path of straight lines, by the even-odd rule."""
    inside = np.zeros((height, width), np.bool_)
    for ring in re.findall(r"M(.*?)z", path):
        corners = [float(number) for number in re.split("[ ,]", ring)]
        inside ^= masks.decode(masks.from_polygons([corners], height, width))
    return inside


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), x=st.integers(0, 20), y=st.integers(0, 20))
def test_a_path_covers_exactly_its_mask(seed: int, x: int, y: int) -> None:
    mask = np.random.default_rng(seed).random((9, 12)) < 0.6  # with holes, in pieces
    drawing = Drawing(gray(40, 50), (Shape(Patch(x, y, mask), (1, 2, 3), 0.5, 0),))
    (path,) = parsed(to_svg(drawing)).findall("svg:path", NAMES)
    whole = np.zeros((40, 50), np.bool_)
    whole[y : y + 9, x : x + 12] = mask
    assert path.attrib["fill-rule"] == "evenodd"
    assert (covered(path.attrib["d"], 40, 50) == whole).all()


def test_shapes_keep_their_color_and_labels_are_text() -> None:
    patch = Patch(40, 40, np.ones((30, 30), np.bool_))
    name = '</text><script>alert(1)</script> & "x"'
    text = to_svg(Drawing(gray(100, 400), (Shape(patch, (230, 159, 0), label=name),)))
    root = parsed(text)
    (path,) = root.findall("svg:path", NAMES)
    assert path.attrib["fill"] == path.attrib["stroke"] == "#e69f00" and path.attrib["fill-opacity"] == "0.45"
    (label,) = root.findall("svg:text", NAMES)
    assert label.text == name[:27] + "…"
    assert {element.tag.partition("}")[2] for element in root.iter()} == {"svg", "image", "path", "rect", "text"}
    assert root.attrib["width"] == "400" and root.attrib["viewBox"] == "0 0 400 100"


def test_maps_are_embedded_cell_by_cell() -> None:
    values = np.linspace(0, 1, 28 * 28, dtype=np.float32).reshape(28, 28)
    card = Card(
        (84, 168), ((Tile("occludee mask", (values)), Tile("none", None), Tile("box", Drawing(gray(84, 168)))),)
    )
    root = parsed(to_svg(card))
    embedded = list(root.iter(f"{{{NAMES['svg']}}}image"))
    heat = next(image for image in embedded if "png" in image.attrib["href"] and image.attrib["width"] == "168")
    assert heat.attrib["height"] == "84" and "pixelated" in heat.attrib["style"]
    data = base64.b64decode(heat.attrib["href"].partition(",")[2])
    with Image.open(BytesIO(data)) as stored:
        assert (np.asarray(stored) == draw.heatmap(values)).all()
    captions = [text.text for text in root.iter(f"{{{NAMES['svg']}}}text")]
    assert captions == ["occludee mask", "none", "box", "1", "0"]
    painted = draw.paint(card)
    assert (int(root.attrib["height"]), int(root.attrib["width"])) == painted.shape[:2]


def test_hatched_shapes_share_a_pattern_of_their_color_and_arrows_are_polygons() -> None:
    patch, colors = Patch(10, 10, np.ones((30, 30), np.bool_)), [(1, 2, 3), (4, 5, 6), (1, 2, 3)]
    shapes = tuple(Shape(patch, color, hatched=True) for color in colors)
    content = Drawing(gray(60, 80), (*shapes, Shape(patch, (7, 8, 9))), (Arrow((20, 20), (60, 30)),))
    for drawn in (content, Card((60, 80), ((Tile("a", content), Tile("b", content)), (Tile("c", None),)))):
        root = parsed(to_svg(drawn))
        patterns = root.findall("svg:pattern", NAMES)
        assert [one.attrib["id"] for one in patterns] == ["hatch-010203", "hatch-040506"]
        assert [one[0].attrib["stroke"] for one in patterns] == ["#010203", "#040506"]
        fills = [path.attrib["fill"] for path in root.iter(f"{{{NAMES['svg']}}}path") if "fill" in path.attrib][:4]
        assert fills == ["url(#hatch-010203)", "url(#hatch-040506)", "url(#hatch-010203)", "#070809"]
        arrow = next(root.iter(f"{{{NAMES['svg']}}}polygon"))
        points = [tuple(map(float, point.split(","))) for point in arrow.attrib["points"].split()]
        assert len(points) == 7 and (60, 30) in points
    assert "pattern" not in to_svg(content._replace(shapes=content.shapes[3:]))
