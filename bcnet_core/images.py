"""Reading images the way annotators saw them: upright, RGB, 8 bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from bcnet_core.errors import data_error


def read_image(path: Path, *, expect_size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read one image.

    Any mode of 8 bits (grayscale, palette, CMYK, ...) is converted to RGB. An EXIF rotation is applied, unless
    `expect_size` says that the annotations were made on the picture as it is stored, as COCO's were.

    Args:
        path: the file.
        expect_size: (height, width) in pixels from the annotation file.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        BCNetError: if the file is missing, damaged, no image, or of another size than the annotations say.
    """
    try:
        with Image.open(path) as stored:
            stored.load()
            mode = stored.mode
            turned = stored.getexif().get(ExifTags.Base.Orientation, 1) != 1
            upright = ImageOps.exif_transpose(stored) if turned else stored  # which would copy it in any case
            image = upright if expect_size in (None, upright.size[::-1]) else stored
            pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except FileNotFoundError:
        raise data_error(
            f"the image `{path}` does not exist",
            "is the folder of images right? (data.*.images, --images, --data-root)",
        ) from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise data_error(
            f"the image `{path}` cannot be read: {error}", "replace the file, or drop it from the json"
        ) from None
    if mode.startswith(("I", "F")):
        raise data_error(f"the image `{path}` has more than 8 bits a channel ({mode})", "scale it to 8 bits first")
    if expect_size is not None and pixels.shape[:2] != expect_size:
        raise data_error(
            f"the image `{path}` is {pixels.shape[1]} x {pixels.shape[0]} pixels, its annotations say "
            f"{expect_size[1]} x {expect_size[0]}",
            "annotate the image at its own size, or restore the image that was annotated",
        )
    return pixels


def image_size(path: Path) -> tuple[int, int]:
    """The (height, width) of an image in pixels, upright, as `read_image` gives it; only its header is read.

    Raises:
        BCNetError: if the file is missing, or no image.
    """
    try:
        with Image.open(path) as stored:
            width, height = stored.size
            turned = stored.getexif().get(ExifTags.Base.Orientation, 1) in {5, 6, 7, 8}
    except FileNotFoundError:
        raise data_error(f"the image `{path}` does not exist") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise data_error(f"the image `{path}` cannot be read: {error}") from None
    return (width, height) if turned else (height, width)
