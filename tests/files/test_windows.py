"""Windows of images hold the pixels that `read_image` gives, whether the image is huge or not."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from bcnet_core import BCNetError, ExitCode
from bcnet_core.files import windows
from bcnet_core.files.image_headers import image_size
from bcnet_core.files.images import decode_image, read_image
from bcnet_core.files.windows import Window, WindowReader, reduced

SIZE = (60, 80)
TURN = 0x0112
"""The EXIF tag of the orientation."""


@pytest.fixture
def picture() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8))


@pytest.fixture
def few_are_huge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let images of the tests have more pixels than Pillow reads."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)


def save(picture: Image.Image, path: Path, mode: str) -> Path:
    stored = picture.quantize(16) if mode == "P" else picture.convert(mode)
    stored.save(path, **({"irreversible": False} if path.suffix == ".jp2" else {}))
    return path


KINDS = [(suffix, mode) for suffix in ("png", "tif", "jp2") for mode in ("RGB", "L", "RGBA", "LA", "P")]


@pytest.mark.parametrize(("suffix", "mode"), [kind for kind in KINDS if kind != ("jp2", "P")])
def test_windows_of_a_huge_image_are_its_pixels(
    picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, mode: str
) -> None:
    path = save(picture, tmp_path / f"a.{suffix}", mode)
    whole = read_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert image_size(path) == SIZE
    with WindowReader() as reader:
        for window in (Window(0, 0, 80, 60), Window(7, 13, 40, 31), Window(79, 59, 1, 1)):
            seen = reader.read(path, window, SIZE)
            assert seen.dtype == np.uint8 and (seen == window.cut(whole)).all()
    with pytest.raises(BCNetError, match=r"more than 2,000 pixels, too many .* at once") as caught:
        read_image(path)
    assert caught.value.hints == ("a detector can see it in tiles: --tile 1024",)


def test_a_huge_jpeg_differs_from_pillow_by_rounding_alone(
    picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth = picture.resize((8, 6)).resize((80, 60))
    smooth.save(tmp_path / "a.jpg", quality=95)
    whole = read_image(tmp_path / "a.jpg").astype(int)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with WindowReader() as reader:
        seen = reader.read(tmp_path / "a.jpg", Window(7, 13, 40, 31), SIZE)
    assert np.abs(seen - whole[13:44, 7:47]).max() <= 3


@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_a_whole_image_is_reduced(
    picture: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    path = save(picture, tmp_path / "a.tif", mode)
    whole = read_image(path)
    monkeypatch.setattr(windows, "OVERVIEW", 20)
    window = Window(0, 0, 80, 60)
    with WindowReader() as reader:
        small = reader.read(path, window, SIZE)
    assert small.shape == (15, 20, 3) and (small == reduced(whole, window, SIZE)).all()
    assert np.abs(small - whole.reshape(15, 4, 20, 4, 3).mean((1, 3))).max() <= 1
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with WindowReader() as reader:
        huge = reader.read(path, window, SIZE)
    if mode == "RGB":
        assert np.abs(huge.astype(int) - small).max() <= 1
    else:  # colors of the palette, not means of two of its entries
        assert huge.shape == small.shape
        assert {tuple(color) for color in huge.reshape(-1, 3)} <= {tuple(color) for color in whole.reshape(-1, 3)}


def test_an_image_that_is_not_huge_is_read_by_pillow_once_and_upright(picture: Image.Image, tmp_path: Path) -> None:
    exif = picture.getexif()
    exif[TURN] = 6
    for name in ("a.jpg", "a.tif", "a.png"):
        path = tmp_path / name
        picture.save(path, exif=exif)
        whole = read_image(path)
        assert image_size(path) == decode_image(path).upright == whole.shape[:2] == (80, 60)
        with WindowReader() as reader:
            first = reader.read(path, Window(10, 20, 30, 25), (80, 60))
            path.unlink()  # it is held
            assert (reader.read(path, Window(0, 0, 30, 25), (80, 60)) == whole[:25, :30]).all()
        assert (first == whole[20:45, 10:40]).all()


def test_what_would_have_other_pixels_is_refused(picture: Image.Image, tmp_path: Path, few_are_huge: None) -> None:
    exif = picture.getexif()
    exif[TURN] = 6
    for name in ("turned.jpg", "turned.tif", "turned.png"):
        picture.save(tmp_path / name, exif=exif)
    for name, mode in (("ink.tif", "CMYK"), ("ink.jpg", "CMYK"), ("bits.png", "1"), ("lab.tif", "LAB")):
        save(picture, tmp_path / name, mode)
    Image.fromarray(np.zeros(SIZE, np.uint16)).save(tmp_path / "deep.png")
    cv2.imwrite(str(tmp_path / "deep_color.png"), np.full((*SIZE, 3), 7_000, np.uint16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            tmp_path / "inverted.tif", "w", driver="GTiff", width=80, height=60, count=1, dtype="uint8",
            photometric="MINISWHITE",
        ) as out:  # fmt: skip
            out.write(np.full((1, *SIZE), 7, np.uint8))
    picture.save(tmp_path / "a.bmp")
    for name, word in (
        ("turned.jpg", "orientation 6"), ("turned.tif", "orientation 6"), ("turned.png", "orientation 6"),
        ("ink.tif", "CMYK"), ("ink.jpg", "CMYK"), ("bits.png", r"\(1\)"), ("lab.tif", "LAB"), ("deep.png", "I;16"),
        ("a.bmp", "is a BMP"), ("deep_color.png", "RGB"), ("inverted.tif", r"\(L\)"),
    ):  # fmt: skip
        path = tmp_path / name
        with WindowReader() as reader, pytest.raises(BCNetError, match=word) as caught:
            reader.read(path, Window(0, 0, 10, 10), image_size(path))
        assert caught.value.exit_code == ExitCode.BAD_DATA and str(path) in caught.value.message


def test_an_image_of_another_size_than_its_annotations_is_refused(
    picture: Image.Image, tmp_path: Path, few_are_huge: None
) -> None:
    picture.save(tmp_path / "a.png")
    with WindowReader() as reader, pytest.raises(BCNetError, match="is 80 x 60 pixels, its annotations say 99 x 60"):
        reader.read(tmp_path / "a.png", Window(0, 0, 10, 10), (60, 99))


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "jp2"])
def test_a_truncated_huge_image_is_named(tmp_path: Path, few_are_huge: None, suffix: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 300, 3), np.uint8))
    path = tmp_path / f"a.{suffix}"
    noise.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with WindowReader() as reader, pytest.raises(BCNetError, match=r"a\.\w+` cannot be read: ") as caught:
        reader.read(path, Window(0, 300, 100, 100), (400, 300))
    assert "\n" not in caught.value.message and caught.value.exit_code == ExitCode.BAD_DATA


def test_without_rasterio_the_extra_is_named(
    picture: Image.Image, tmp_path: Path, few_are_huge: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture.save(tmp_path / "a.png")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with WindowReader() as reader, pytest.raises(BCNetError, match=r"has 4,800 pixels, .* needs rasterio") as caught:
        reader.read(tmp_path / "a.png", Window(0, 0, 10, 10), SIZE)
    assert caught.value.hints == ("pip install 'bcnet[large]'",) and caught.value.exit_code == ExitCode.USAGE
