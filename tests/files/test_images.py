from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bcnet_core import BCNetError
from bcnet_core.files.images import read_image


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
