"""Images, read as annotators saw them (upright, RGB, 8 bit), and only from the folder that is meant."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

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


def image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder and its subfolders, sorted, by their suffixes; macOS's `._*` are none."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in files if not path.name.startswith("._") and path.is_file())


def image_path(folder: Path | None, name: str) -> Path:
    """Return the path of an image that a JSON file names, which may be a link.

    A name must stay in the folder: a JSON file from elsewhere must not show other files. Without a folder, names are
    paths that the user gave, which may lead anywhere.
    """
    if folder is None:
        return Path(name)
    own = PurePath(name)
    if ".." in own.parts or (own.is_absolute() and not own.is_relative_to(folder.absolute())):
        raise data_error(
            f"the json names the image `{name[:200]}`, which is not in the folder of images `{folder}`",
            "file names are relative to that folder and stay in it; give the folder above, or put a link into it",
        )
    return folder / own


def missing_images(folder: Path | None, names: Iterable[str]) -> list[str]:
    """Return the names of images that do not exist, or that no file can have."""
    missing = []
    for name in names:
        path, exists = image_path(folder, name), False
        with suppress(OSError, ValueError):
            exists = path.is_file()
        if not exists:
            missing.append(name)
    return missing


def read_image(path: Path, *, expect_size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read one image as (H, W, 3) uint8 RGB.

    Any mode of 8 bits (grayscale, palette, CMYK, ...) is converted. An EXIF rotation is applied, unless `expect_size`,
    the (height, width) in the annotation file, shows that the image was annotated as it is stored, as COCO's were.
    """
    with _opened(path) as stored:
        if expect_size is not None and expect_size not in (stored.size, stored.size[::-1]):
            raise _wrong_size(path, stored.size[::-1], expect_size)  # before a huge one is decoded
        stored.load()
        mode = stored.mode
        upright = ImageOps.exif_transpose(stored) if _orientation(stored) != 1 else stored  # which would copy it
        image = upright if expect_size in (None, upright.size[::-1]) else stored
        pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    if mode.startswith(("I", "F")):
        raise data_error(f"the image `{path}` has more than 8 bits a channel ({mode})", "scale it to 8 bits first")
    if expect_size is not None and pixels.shape[:2] != expect_size:
        raise _wrong_size(path, pixels.shape[:2], expect_size)
    return pixels


def read_listed(folder: Path | None, image: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Read the image of an entry of a COCO file's `images` as (H, W, 3) uint8 RGB, of the size that the entry says."""
    return read_image(image_path(folder, image["file_name"]), expect_size=(image["height"], image["width"]))


def read_values(path: Path) -> NDArray[Any]:
    """Read the numbers of one image as they are stored: (H, W) if it has one channel, else (H, W, C).

    A palette image gives indices, not colors, and an EXIF rotation is not applied: this is for images of labels.

    Raises:
        BCNetError: if the image cannot be read or has several pages.
    """
    with _opened(path) as stored:
        if getattr(stored, "n_frames", 1) > 1:
            raise data_error(f"the image `{path}` has several pages", "save each page as a file of its own")
        return np.array(stored)


def image_size(path: Path) -> tuple[int, int]:
    """Return the (height, width) of an image in pixels, upright, as `read_image` gives it.

    Usually reads the header alone; a PNG may have its EXIF block behind the pixels.
    """
    with _opened(path) as stored:
        width, height = stored.size
        return (width, height) if _orientation(stored) in {5, 6, 7, 8} else (height, width)


def _orientation(image: Image.Image) -> Any:  # noqa: ANN401  (a number, if the file is sound)
    return image.getexif().get(ExifTags.Base.Orientation, 1)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image, of which only the header is read yet; errors of the block become errors of the image."""
    try:
        check_regular_file(path)
        Image.init()
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as stored:
            yield stored
    except BCNetError:
        raise
    except FileNotFoundError:
        raise data_error(
            f"the image `{path}` does not exist",
            "is the folder of images right? (data.*.images, --images, --data-root)",
        ) from None
    except UnidentifiedImageError:
        raise data_error(
            f"the image `{path}` cannot be read: it is none of {', '.join(FORMATS)}",
            "save it as png or jpg, or drop it from the json",
        ) from None
    except Exception as error:  # a damaged file can break its reader anywhere
        raise data_error(
            f"the image `{path}` cannot be read: {error}", "replace the file, or drop it from the json"
        ) from None


def _wrong_size(path: Path, *sizes: tuple[int, ...]) -> BCNetError:
    """Return the error for an image of another (height, width) in pixels than its annotations say."""
    found, expected = (f"{width} x {height}" for height, width in sizes)
    return data_error(
        f"the image `{path}` is {found} pixels, its annotations say {expected}",
        "annotate the image at its own size, or restore the image that was annotated",
    )
