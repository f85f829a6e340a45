"""Images, read as annotators saw them (upright, RGB, 8 bit), and only from the folder that is meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bcnet_core.errors import BCNetError, data_error, usage_error
from bcnet_core.files.image_headers import SIDEWAYS, SUFFIXES, opened_image, orientation_of, stored_size

DEEP_MODES = ("I", "F")
"""Beginnings of Pillow's names of modes with more than 8 bits a channel."""
DARK_BELOW = 64
"""Brightest value of the upper 8 of 16 bits up to which the lower bits hold the picture: at most 14 bits are used."""


def image_files(folder: Path) -> list[Path]:
    """Return the image files in a folder and its subfolders, sorted, by their suffixes; macOS's `._*` are none."""
    return sorted(path for path in _images_of(folder) if path.is_file())


def dangling_images(folder: Path) -> list[Path]:
    """Return the links in a folder and its subfolders that are named like images and lead to no file, sorted."""
    return sorted(path for path in _images_of(folder) if path.is_symlink() and not path.exists())


def _images_of(folder: Path) -> Iterator[Path]:
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return (path for path in files if not path.name.startswith("._"))


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
    with opened_image(path) as stored:
        if expect_size is not None and expect_size not in (stored.size, stored.size[::-1]):
            raise wrong_size(path, stored.size[::-1], expect_size)  # before a huge one is decoded
        stored.load()
        mode = stored.mode
        upright = ImageOps.exif_transpose(stored) if orientation_of(stored) != 1 else stored  # which would copy it
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
    with opened_image(path) as stored:
        if getattr(stored, "n_frames", 1) > 1:
            raise data_error(f"the image `{path}` has several pages", "save each page as a file of its own")
        return np.array(stored)


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
    with opened_image(path) as image:
        width, height = stored_size(image)
        sixteen = ";16" in str(getattr(image, "tile", ()))  # layouts like "RGB;16B", which no mode of Pillow tells
        turned = orientation_of(image) in SIDEWAYS
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
