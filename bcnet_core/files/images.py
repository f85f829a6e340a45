"""Images, read as annotators saw them (upright, RGB, 8 bit), and only from the folder that is meant."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from bcnet_core.errors import BCNetError, data_error, usage_error
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
DEEP_MODES = ("I", "F")
"""Beginnings of Pillow's names of modes with more than 8 bits a channel."""
DARK_BELOW = 64
"""Brightest value of the upper 8 of 16 bits up to which the lower bits hold the picture: at most 14 bits are used."""
SIDEWAYS = {5, 6, 7, 8}
"""EXIF orientations that exchange width and height."""


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


def check_images(images: Sequence[Mapping[str, Any]], folder: Path | None, *, options: str = "--data-root") -> None:
    """Require the images of entries of a COCO file's `images` to exist; `options` say where the folder is chosen.

    Raises:
        BCNetError: with the number of missing images and the first.
    """
    missing = missing_images(folder, (image["file_name"] for image in images))
    if missing:
        raise data_error(
            f"{len(missing):,} of {len(images):,} images are not in `{folder or '.'}`, the first is `{missing[0]:.99}`",
            f"is the folder of images right? ({options})",
        )


def read_image(path: Path, *, expect_size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read one image as (H, W, 3) uint8 RGB.

    Any mode of 8 bits (grayscale, palette, CMYK, ...) is converted. An EXIF rotation is applied, unless `expect_size`,
    the (height, width) in the annotation file, shows that the image was annotated as it is stored, as COCO's were.
    """
    with _opened(path) as stored:
        if expect_size is not None and expect_size not in (stored.size, stored.size[::-1]):
            raise wrong_size(path, stored.size[::-1], expect_size)  # before a huge one is decoded
        stored.load()
        mode = stored.mode
        upright = ImageOps.exif_transpose(stored) if _orientation(stored) != 1 else stored  # which would copy it
        image = upright if expect_size in (None, upright.size[::-1]) else stored
        pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    if mode.startswith(DEEP_MODES):
        raise data_error(f"the image `{path}` has more than 8 bits a channel ({mode})", "scale it to 8 bits first")
    if expect_size is not None and pixels.shape[:2] != expect_size:
        raise wrong_size(path, pixels.shape[:2], expect_size)
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
    with _opened(path, any_size=True) as stored:
        (width, height), name, mode = stored.size, stored.format or "", stored.mode
        layout = str(getattr(stored, "tile", ""))  # "RGB;16B" or "L;I" there, which no mode of Pillow tells
        is_plain = not any(f"{mode};{how}" in layout for how in ("16", "I", "R"))
        is_huge = width * height > 2 * (Image.MAX_IMAGE_PIXELS or width * height)
        return ImageHeader(name, width, height, mode, _orientation(stored), is_plain, is_huge)


def image_size(path: Path) -> tuple[int, int]:
    """Return the (height, width) of an image in pixels, upright, as `read_image` gives it; from the header alone."""
    header = image_header(path)
    size = header.height, header.width
    return size[::-1] if header.orientation in SIDEWAYS else size


class DecodedImage(NamedTuple):
    """Properties of an image that decodes.

    Attributes:
        stored: (height, width) in pixels as it is stored.
        upright: (height, width) in pixels after its EXIF orientation was applied, as `read_image` gives it.
        deep: whether `read_image` rejects it because a channel has more than 8 bits.
        dark: whether 16 bits a channel are cut to the upper 8, of which at most a quarter of the range is used.
        pages: whether another page or frame has the same size, so that the first, which is read, may not be meant.
    """

    stored: tuple[int, int]
    upright: tuple[int, int]
    deep: bool
    dark: bool
    pages: bool


def decode_image(path: Path) -> DecodedImage:
    """Decode an image to see whether it can be read; a JPEG only at an eighth of its size, which finds the same faults.

    Raises:
        BCNetError: if the image does not exist or cannot be decoded.
    """
    with _opened(path) as image:
        width, height = image.size
        sixteen = ";16" in str(getattr(image, "tile", ()))  # layouts like "RGB;16B", which no mode of Pillow tells
        turned = _orientation(image) in SIDEWAYS
        image.draft("RGB", (1, 1))
        image.load()
        deep = image.mode.startswith(DEEP_MODES)
        pixels = image if deep or image.mode == "RGB" else image.convert("RGB")
        dark = sixteen and not deep and int(np.asarray(pixels).max()) < DARK_BELOW
        upright = (width, height) if turned else (height, width)
        return DecodedImage((height, width), upright, deep, dark, _has_pages(image))


def _has_pages(image: Image.Image) -> bool:
    """Return whether a second page is more than a preview; the second picture of a phone's JPEG (MPO) always is one."""
    first = image.size
    with suppress(Exception):  # the first page is sound, and no other is read
        if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
            image.seek(1)
            return image.size == first
    return False


def _orientation(image: Image.Image) -> Any:  # noqa: ANN401  (a number, if the file is sound)
    return image.getexif().get(ExifTags.Base.Orientation, 1)


@contextmanager
def _opened(path: Path, *, any_size: bool = False) -> Iterator[Image.Image]:
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


def wrong_size(path: Path, *sizes: tuple[int, ...]) -> BCNetError:
    """Return the error for an image of another (height, width) in pixels than its annotations say."""
    found, expected = (f"{width} x {height}" for height, width in sizes)
    return data_error(
        f"the image `{path}` is {found} pixels, its annotations say {expected}",
        "annotate the image at its own size, or restore the image that was annotated",
    )


def as_image(image: NDArray[np.uint8] | str | Path) -> NDArray[np.uint8]:
    """Return an (H, W, 3) uint8 RGB image unchanged, or read it from a path.

    Raises:
        BCNetError: if it is no such image, or cannot be read.
    """
    if isinstance(image, str | Path):
        return read_image(Path(image))
    hint = "give a path, np.asarray(picture.convert('RGB')) of a PIL image, tensor.permute(1, 2, 0).numpy() of a tensor"
    if not isinstance(image, np.ndarray):
        raise usage_error(f"an image is an (H, W, 3) uint8 RGB array, this one is a {type(image).__name__}", hint)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise usage_error(f"an image is an (H, W, 3) uint8 RGB array, this one is {image.shape} {image.dtype}", hint)
    return image
