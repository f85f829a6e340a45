from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from bcnet_core import BCNetError
from bcnet_core.files.image_headers import FORMATS, SUFFIXES
from bcnet_core.files.images import image_files, read_image


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.new("RGB", (7, 5), (255, 255, 255)).convert(mode).save(path)
    pixels = read_image(path)
    assert pixels.shape == (5, 7, 3) and pixels.dtype == np.uint8
    assert (pixels == 255).all()


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_eight_bits_are_rejected_rather_than_truncated(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (7, 5)).save(tmp_path / "x.tif")
    with pytest.raises(BCNetError, match="more than 8 bits"):
        read_image(tmp_path / "x.tif")


def test_an_exif_rotation_is_applied_unless_the_annotations_fit_the_stored_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    image = Image.new("RGB", (8, 4))
    image.putpixel((0, 0), (255, 0, 0))
    image.save(tmp_path / "x.png", exif=exif)
    assert read_image(tmp_path / "x.png").shape == (8, 4, 3)
    assert read_image(tmp_path / "x.png")[0, 3].tolist() == [255, 0, 0]
    assert read_image(tmp_path / "x.png", expect_size=(4, 8))[0, 0].tolist() == [255, 0, 0]


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(BCNetError, match=r"gone\.jpg` does not exist"):
        read_image(tmp_path / "gone.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(BCNetError, match=r"text.jpg` cannot be read"):
        read_image(tmp_path / "text.jpg")
    Image.effect_noise((64, 64), 50).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:800])
    with pytest.raises(BCNetError, match=r"cut.png` cannot be read"):
        read_image(tmp_path / "cut.png")
    Image.new("L", (9, 9)).save(tmp_path / "small.png")
    with pytest.raises(BCNetError, match="is 9 x 9 pixels, its annotations say 640 x 480") as caught:
        read_image(tmp_path / "small.png", expect_size=(480, 640))
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(("form", "suffix"), [(form, suffix) for form in FORMATS for suffix in FORMATS[form]])
def test_every_suffix_that_is_taken_from_a_folder_is_that_of_a_format_that_is_read(form: str, suffix: str) -> None:
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    Image.init()
    assert Image.registered_extensions()[suffix] == form and suffix in SUFFIXES


@pytest.mark.parametrize("name", ["a.gif", "b.JFIF", "c.jp2", "d.ppm", "deep/e.jpg"])
def test_images_of_every_format_are_found_in_a_folder_and_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (7, 5)).save(path)
    assert image_files(tmp_path) == [path] and read_image(path).shape == (5, 7, 3)


def test_the_resource_forks_that_macos_leaves_on_a_card_are_no_images(tmp_path: Path) -> None:
    for name in ("._a.jpg", "a.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7Mac OS X")
    assert image_files(tmp_path) == [tmp_path / "a.jpg"]
