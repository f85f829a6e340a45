"""Headers of images: which formats are read, and what is known of an image of any size without its pixels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from bcnet_core.errors import BCNetError, data_error
from bcnet_core.files.json_files import check_regular_file

# Pillow warns of decompression bombs from 90 million pixels, and raises from twice as many, which is enough.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

FORMATS: Mapping[str, tuple[str, ...]] = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "AVIF": (".avif",),
}
"""Formats that are read, with their suffixes; others that Pillow knows run programs (EPS), or take minutes for a small
file (FITS)."""
SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
"""Suffixes of the files that are taken from a folder, in lower case."""
SIDEWAYS = {5, 6, 7, 8}
"""EXIF orientations that exchange width and height."""


class ImageHeader(NamedTuple):
    """Properties of a stored image that are known without its pixels.

    Attributes:
        format: a key of `FORMATS`.
        width: pixels.
        height: pixels.
        mode: Pillow's name of the kind of pixels.
        orientation: EXIF orientation, 1 if it is upright.
        is_plain: whether the pixels are those in the file: 8 bits a channel, and no inverted ones.
        is_huge: whether it has more pixels than are read at once.
    """

    format: str
    width: int
    height: int
    mode: str
    orientation: int
    is_plain: bool
    is_huge: bool


def image_header(path: Path) -> ImageHeader:
    """Read the header of an image of any size; a PNG may have its EXIF block behind the pixels.

    Raises:
        BCNetError: if the image does not exist or is none.
    """
    with opened_image(path, any_size=True) as stored:
        (width, height), name, mode = stored_size(stored), stored.format or "", stored.mode
        layout = str(getattr(stored, "tile", ""))  # "RGB;16B" or "L;I" there, which no mode of Pillow tells
        is_plain = not any(f"{mode};{how}" in layout for how in ("16", "I", "R"))
        is_huge = width * height > 2 * (Image.MAX_IMAGE_PIXELS or width * height)
        return ImageHeader(name, width, height, mode, orientation_of(stored), is_plain, is_huge)


def image_size(path: Path) -> tuple[int, int]:
    """Return the (height, width) of an image in pixels, upright, as `read_image` gives it; from the header alone."""
    header = image_header(path)
    size = header.height, header.width
    return size[::-1] if header.orientation in SIDEWAYS else size


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Return the (width, height) of an open image as it is stored; Pillow may tell those of a turned TIFF upright."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
    return image.size


def orientation_of(image: Image.Image) -> Any:  # noqa: ANN401  (a number, if the file is sound)
    """Return the EXIF orientation of an open image; 1 if it is upright."""
    return image.getexif().get(ExifTags.Base.Orientation, 1)


@contextmanager
def opened_image(path: Path, *, any_size: bool = False) -> Iterator[Image.Image]:
    """Open an image, of which only the header is read yet; errors of the block become errors of the image."""
    try:
        check_regular_file(path)
        Image.init()
        known = [name for name in FORMATS if name in Image.OPEN]
        opened: Image.Image
        try:
            opened = Image.open(path, formats=known)
        except Image.DecompressionBombError:
            if not any_size:
                raise
            opened = _open_huge(path, known)
        with opened as stored:
            yield stored
    except BCNetError:
        raise
    except Image.DecompressionBombError:
        raise data_error(
            f"the image `{path}` has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels, too many to be read at "
            "once",
            "a detector can see it in tiles: --tile 1024",
        ) from None
    except FileNotFoundError:
        raise data_error(
            f"the image `{path}` does not exist",
            "is the folder of images right? (data.*.images, --images, --data-root)",
        ) from None
    except UnidentifiedImageError:
        raise data_error(
            f"the image `{path}` cannot be read: it is none of {', '.join(FORMATS)}",
            "save it as png or jpg, or leave it out",
        ) from None
    except Exception as error:  # a damaged file can break its reader anywhere
        raise data_error(f"the image `{path}` cannot be read: {error}", "replace the file, or leave it out") from None


def _open_huge(path: Path, formats: Sequence[str]) -> Image.Image:
    """Open an image that Pillow refuses for its size, for its header."""
    with path.open("rb") as file:
        beginning = file.read(16)
    for name in formats:
        factory, accepts = Image.OPEN[name]
        if accepts is None or accepts(beginning) is True:
            return factory(path)  # type: ignore[call-arg, arg-type]  # it opens, and closes, a path
    raise UnidentifiedImageError(str(path))
