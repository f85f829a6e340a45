"""The gallery is complete, escaped, and stays in its folder."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from bcnet_core import masks
from bcnet_core.config.choices import PictureFormat
from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.visualization import drawing, gallery
from bcnet_core.visualization.picture import Instance, Picture, match_truth

HOSTILE = '"><script>alert(1)</script>\ud800'


class Elements(HTMLParser):
    """Collects the elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def picture(name: str, category: str = "dog", *, fault: str | None = None) -> Picture:
    image = np.full((90, 120, 3), 80, np.uint8)
    if fault is not None:
        return Picture(name, image, fault=fault)
    mask, region = masks.from_box(20, 20, 60, 60, 90, 120), masks.from_box(40, 20, 60, 60, 90, 120)
    layers = Instance(category, (20, 20, 60, 60), mask, region, score=0.75)
    return Picture(name, image, (layers,), note="a <note>")


def images(page: Elements) -> list[dict[str, str | None]]:
    """All images except that of the dialog, which is empty until an RoI is opened."""
    return [image for image in page.all("img") if "src" in image]


def judged(name: str) -> Picture:
    """A dog that was found, and a hidden cat that was not."""
    found = picture(name)
    mask = masks.from_box(20, 20, 60, 40, 90, 120)
    true = (
        Instance("dog", (20, 20, 60, 60), mask),
        Instance("cat", (0, 0, 20, 20), None, masks.from_box(0, 0, 9, 9, 90, 120)),
    )
    instances, truth = match_truth(found.instances, true)
    return replace(found, instances=instances, truth=truth)


def data_of(folder: Path) -> dict[str, Any]:
    """The data block of the page."""
    text = (folder / "index.html").read_text(encoding="utf-8")
    (block,) = re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)
    content: dict[str, Any] = json.loads(block)
    return content


def write(folder: Path, *pictures: Picture, **options: Any) -> tuple[gallery.Summary, Elements]:
    folder.mkdir()
    summary = gallery.write_gallery(folder, iter(pictures), title=f"of {HOSTILE}", total=len(pictures), **options)
    return summary, Elements((folder / "index.html").read_text(encoding="utf-8"))


def test_every_picture_is_there_and_every_file_is_used(tmp_path: Path) -> None:
    summary, page = write(tmp_path / "out", picture("a.jpg"), picture("sub/b.jpg", "cat"))
    assert summary == (2, 2, 2, None, 0, (), 0)
    shown = {tmp_path / "out" / str(image["src"]) for image in images(page)}
    assert shown == set((tmp_path / "out" / "pictures").iterdir())
    assert len(shown) == 2 * 6
    for image in images(page):
        with Image.open(tmp_path / "out" / str(image["src"])) as stored:
            assert stored.size == (int(image["width"] or 0), int(image["height"] or 0))
        assert image["alt"]
    color = "rgb({},{},{})".format(*drawing.instance_color(0))
    assert any(color in str(mark["style"]) for mark in page.all("i"))


def test_the_page_is_self_contained(tmp_path: Path) -> None:
    write(tmp_path / "out", picture("a.jpg"))
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:https?:)?//\w|url\(|@import|\bsrc=\"/|<link", text)
    assert 'name="viewport"' in text
    assert "ArrowRight" in text


def test_the_filters_cover_every_instance(tmp_path: Path) -> None:
    summary, elements = write(tmp_path / "out", picture("a", "dog"), picture("b", "bird"), judged("c"))
    options = [option["value"] for option in elements.all("option")]
    assert options == ["", "1", "2", "0", "", "0", "1", "2"]  # by name: bird, cat, dog; then the three levels
    heavy, none = gallery.LEVELS.index("heavy"), gallery.LEVELS.index("none")
    assert data_of(tmp_path / "out")["pictures"] == [
        [[0, heavy, 0.75, None]],
        [[1, heavy, 0.75, None]],
        [[0, none, 0.75, 0.5], [2, heavy, None, 0.0]],  # the true dog is in full view; the cat was missed
    ]
    assert summary == (3, 3, 3, 2, 1, (), 0)
    kinds = {kind for box in elements.all("figure") for kind in (box.get("data-panel") or "rois").split()}
    assert {box["value"] for box in elements.all("input") if box["type"] == "checkbox"} == kinds
    assert [span["data-range"] for span in elements.all("span") if "data-range" in span] == ["2", "3"]


def test_whole_masks_are_explained_where_they_are_known(tmp_path: Path) -> None:
    plain = picture("a.jpg")
    one = replace(plain.instances[0], whole=masks.from_box(20, 20, 60, 90, 90, 120), score=None)
    summary, page = write(tmp_path / "out", replace(plain, instances=(one,)), plain, order=True)
    assert summary.wholes == 1
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "Hidden parts are hatched" in text and "occluders cover 29% of its box, 43% of it is hidden<" in text
    assert len([figure for figure in page.all("figure") if figure.get("data-panel") == "whole"]) == 1
    assert "whole" in {box["value"] for box in page.all("input") if box["type"] == "checkbox"}
    write(tmp_path / "without", plain, order=True)
    assert "hatched" not in (tmp_path / "without" / "index.html").read_text(encoding="utf-8")


def test_the_page_offers_no_filter_without_data(tmp_path: Path) -> None:
    truth = replace(picture("a"), instances=tuple(replace(one, score=None) for one in picture("a").instances))
    _, elements = write(tmp_path / "out", truth, layer="occludee", rois=0)
    assert not [span for span in elements.all("span") if "data-range" in span]
    toggles = [box["value"] for box in elements.all("input")]
    assert toggles == ["image", "instances", "occludee", "boundaries"]
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 4


def test_a_large_page_holds_later_pictures_as_text(tmp_path: Path) -> None:
    count = gallery.AT_ONCE + 5
    fault = f"no <{HOSTILE} 24"
    many = [picture(f"{number}.jpg", f"class </script> {number}") for number in range(count - 1)]
    _, elements = write(tmp_path / "out", *many, picture("z", fault=fault))
    assert len(elements.all("article")) == gallery.AT_ONCE
    assert len(elements.all("script")) == 2
    later = data_of(tmp_path / "out")["later"]
    assert len(later) == 5 and len(data_of(tmp_path / "out")["pictures"]) == count
    parsed = Elements("".join(later))
    assert [article["id"] for article in parsed.all("article")] == [f"p{gallery.AT_ONCE + n}" for n in range(1, 6)]
    assert not parsed.all("script") and len(images(parsed)) == 4 * 6 + 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "svg"])
def test_formats(tmp_path: Path, suffix: PictureFormat) -> None:
    _, elements = write(tmp_path / "out", judged("a"), suffix=suffix)
    files = sorted((tmp_path / "out" / "pictures").iterdir())
    assert len(files) == 9 + 1 and {path.suffix for path in files} == {f".{suffix}"}
    for image in images(elements):
        path, size = tmp_path / "out" / str(image["src"]), (int(image["width"] or 0), int(image["height"] or 0))
        if suffix == "svg":
            root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
            assert (int(root.attrib["width"]), int(root.attrib["height"])) == size
        else:
            with Image.open(path) as stored:
                assert stored.size == size and stored.format == {"jpg": "JPEG", "png": "PNG"}[suffix]
    if suffix == "png":
        with Image.open(tmp_path / "out" / "pictures" / "0001-a-image.png") as stored:
            assert (np.asarray(stored) == 80).all()


def test_text_is_escaped(tmp_path: Path) -> None:
    _, page = write(tmp_path / "out", picture(HOSTILE, HOSTILE), picture("b", fault=HOSTILE))
    assert len(page.all("script")) == 2  # the page's data, and its own script
    assert len(page.all("note")) == 0
    assert all(set(image) == {"src", "width", "height", "loading", "alt"} for image in images(page))


def test_pages_and_drawings_have_no_control_characters(tmp_path: Path) -> None:
    controls = "".join(map(chr, [*range(9), *range(11, 32), *range(127, 160), 0x202E, 0xD800]))
    pictures = [picture(f"{number}{controls}", f"dog{controls}") for number in range(gallery.AT_ONCE + 1)]
    bad = replace(picture("z", fault=controls), note=controls)
    write(tmp_path / "out", *pictures, bad, suffix="svg", rois=1)
    for path in (tmp_path / "out/index.html", tmp_path / "out/pictures/0001-0-instances.svg"):
        text = path.read_text(encoding="utf-8")
        assert not set(controls) & set(text), path
    assert "dog\ufffd" in (tmp_path / "out/index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    ["../../evil.jpg", "/etc/passwd", "..\\..\\evil.jpg", "..", "", "a/" * 300 + "x", "é ü.png", "con\x00\n.jpg"],
)
def test_names_never_lead_outside_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / "out", picture(name))
    written = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 7
    assert all(re.fullmatch(r"deep/out/(index\.html|pictures/0001-[\w-]{1,40}-\w+\.jpg)", path) for path in written)


def test_one_picture_is_held_at_a_time(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    files_before: list[int] = []

    def pictures() -> Iterator[Picture]:
        for number in range(3):
            files_before.append(len(list((folder / "pictures").iterdir())))
            yield picture(f"{number}.jpg")

    gallery.write_gallery(folder, pictures(), title="t", total=3)
    assert files_before == [0, 6, 12]  # each one is on disk before the next is asked for


def test_unreadable_images_are_counted(tmp_path: Path) -> None:
    summary, page = write(tmp_path / "out", picture("a"), picture("lost.jpg", fault="the image `lost.jpg` is gone"))
    assert summary == (2, 1, 1, None, 0, ("the image `lost.jpg` is gone",), 0)
    assert any("lost.jpg` is gone" in str(image["alt"]) for image in images(page))


def test_a_gallery_without_readable_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BCNetError, match="none of the 2 images") as error:
        write(tmp_path / "out", picture("a", fault="gone"), picture("b", fault="gone"))
    assert error.value.exit_code == ExitCode.BAD_DATA
    assert "--images" in error.value.hints[0]


def test_only_galleries_are_replaced(tmp_path: Path) -> None:
    write(tmp_path / "out", picture("a"))
    gallery.check_replaceable(tmp_path / "out", overwrite=True)
    gallery.check_replaceable(tmp_path / "new", overwrite=False)
    with pytest.raises(BCNetError, match="exists already"):
        gallery.check_replaceable(tmp_path / "out", overwrite=False)
    precious = tmp_path / "photos"
    precious.mkdir()
    gallery.check_replaceable(precious, overwrite=False)  # empty
    (precious / "index.html").write_text("<html>mine</html>")
    with pytest.raises(BCNetError, match="is not a gallery"):
        gallery.check_replaceable(precious, overwrite=True)
    with pytest.raises(BCNetError, match="is a file"):
        gallery.check_replaceable(precious / "index.html", overwrite=True)


def test_safe_stem() -> None:
    assert gallery.safe_stem("000000000139.jpg") == "000000000139"
    assert gallery.safe_stem("../../x.jpg") == "x"
    assert gallery.safe_stem("日本.jpg") == "image"
    assert len(gallery.safe_stem("y" * 99)) == 40
