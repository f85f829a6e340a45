"""The gallery: complete, escaped, and nowhere but in its folder."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bcnet_core.errors import BCNetError, ExitCode
from bcnet_core.visualization import draw, gallery
from bcnet_core.visualization.panels import Layers, Picture

HOSTILE = '"><script>alert(1)</script>\ud800'


class Page(HTMLParser):
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
    mask = np.zeros((90, 120), np.bool_)
    mask[20:60, 20:60] = True
    region = np.roll(mask, 20, axis=1) & mask
    return Picture(name, image, (Layers(category, (20, 20, 60, 60), mask, region, 0.75),), "a <note>")


def write(folder: Path, *pictures: Picture) -> tuple[gallery.Summary, Page]:
    folder.mkdir()
    summary = gallery.write_gallery(folder, iter(pictures), title=f"of {HOSTILE}", total=len(pictures))
    return summary, Page((folder / "index.html").read_text(encoding="utf-8"))


def test_every_picture_is_there_and_every_file_is_used(tmp_path: Path) -> None:
    summary, page = write(tmp_path / "out", picture("a.jpg"), picture("sub/b.jpg", "cat"))
    assert summary == (2, 2, 2, ())
    shown = {tmp_path / "out" / str(image["src"]) for image in page.all("img")}
    assert shown == set((tmp_path / "out" / "pictures").iterdir())
    assert len(shown) == 2 * 6
    for image in page.all("img"):
        with Image.open(tmp_path / "out" / str(image["src"])) as stored:
            assert stored.size == (int(image["width"] or 0), int(image["height"] or 0))
        assert image["alt"]
    colour = "rgb({},{},{})".format(*draw.instance_colour(0))
    assert any(colour in str(mark["style"]) for mark in page.all("i"))


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    write(tmp_path / "out", picture("a.jpg"))
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:https?:)?//\w|url\(|@import|\bsrc=\"/|<link", text)
    assert 'name="viewport"' in text
    assert "ArrowRight" in text


def test_the_class_filter_knows_every_picture(tmp_path: Path) -> None:
    _, page = write(tmp_path / "out", picture("a", "dog"), picture("b", "cat"), picture("c", "dog"))
    options = [option["value"] for option in page.all("option")]
    assert options == ["", "1", "0"]  # by name: cat, dog
    assert [article["data-classes"] for article in page.all("article")] == ["0", "1", "0"]
    assert {box["value"] for box in page.all("input")} == {figure["data-panel"] for figure in page.all("figure")}


def test_text_is_escaped(tmp_path: Path) -> None:
    _, page = write(tmp_path / "out", picture(HOSTILE, HOSTILE), picture("b", fault=HOSTILE))
    assert len(page.all("script")) == 1
    assert len(page.all("note")) == 0
    assert all(set(image) == {"src", "width", "height", "loading", "alt"} for image in page.all("img"))


@pytest.mark.parametrize(
    "name",
    ["../../evil.jpg", "/etc/passwd", "..\\..\\evil.jpg", "..", "", "a/" * 300 + "x", "é ü.png", "con\x00\n.jpg"],
)
def test_names_never_lead_outside(tmp_path: Path, name: str) -> None:
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
    assert summary == (2, 1, 1, ("the image `lost.jpg` is gone",))
    assert any("lost.jpg` is gone" in str(image["alt"]) for image in page.all("img"))


def test_a_gallery_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BCNetError, match="none of the 2 images") as error:
        write(tmp_path / "out", picture("a", fault="gone"), picture("b", fault="gone"))
    assert error.value.exit_code == ExitCode.BAD_DATA
    assert "--images" in error.value.hints[0]


def test_only_galleries_are_replaced(tmp_path: Path) -> None:
    write(tmp_path / "out", picture("a"))
    gallery.refuse_foreign(tmp_path / "out", overwrite=True)
    gallery.refuse_foreign(tmp_path / "new", overwrite=False)
    with pytest.raises(BCNetError, match="exists already"):
        gallery.refuse_foreign(tmp_path / "out", overwrite=False)
    precious = tmp_path / "photos"
    precious.mkdir()
    gallery.refuse_foreign(precious, overwrite=False)  # empty
    (precious / "index.html").write_text("<html>mine</html>")
    with pytest.raises(BCNetError, match="is no gallery"):
        gallery.refuse_foreign(precious, overwrite=True)
    with pytest.raises(BCNetError, match="is a file"):
        gallery.refuse_foreign(precious / "index.html", overwrite=True)


def test_safe_stem() -> None:
    assert gallery.safe_stem("000000000139.jpg") == "000000000139"
    assert gallery.safe_stem("../../x.jpg") == "x"
    assert gallery.safe_stem("日本.jpg") == "image"
    assert len(gallery.safe_stem("y" * 99)) == 40
