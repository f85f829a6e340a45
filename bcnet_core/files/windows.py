"""Windows of images: a part of an image, or the whole of it reduced, without holding all of a huge one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bcnet_core.errors import data_error, usage_error
from bcnet_core.files.image_headers import ImageHeader, image_header
from bcnet_core.files.images import read_image, wrong_size

if TYPE_CHECKING:
    from rasterio.io import DatasetReader

INSTALL = "pip install 'bcnet[large]'"
"""Command that installs the reader of huge images."""
DRIVERS = {"TIFF": "GTiff", "PNG": "PNG", "JPEG": "JPEG", "JPEG2000": "JP2OpenJPEG"}
"""The formats of which windows are read, and their names in GDAL."""
COLORS = {"L": (1, 1, 1), "LA": (1, 1, 1), "RGB": (1, 2, 3), "RGBA": (1, 2, 3), "RGBX": (1, 2, 3), "P": (1,)}
"""The bands that are red, green and blue in images of Pillow's modes; a palette has them for the values of one."""
SETTINGS: dict[str, Any] = {"GDAL_ERROR_ON_LIBJPEG_WARNING": True, "GDAL_CACHEMAX": 256}
"""Of GDAL: a damaged JPEG is an error, not gray; megabytes of decoded blocks that are kept."""
OVERVIEW = 4096
"""Longer side that the whole of a larger image is reduced to, pixels."""


class Window(NamedTuple):
    """A part of an image, pixels.

    Attributes:
        x: its first column.
        y: its first row.
        width: number of columns.
        height: number of rows.
    """

    x: int
    y: int
    width: int
    height: int

    def cut(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return this part of an (H, W, 3) image."""
        return np.ascontiguousarray(pixels[self.y : self.y + self.height, self.x : self.x + self.width])

    def is_whole(self, size: tuple[int, int]) -> bool:
        """Return whether this is all of an image of (H, W) pixels."""
        return (self.height, self.width) == size


def reduced(pixels: NDArray[np.uint8], window: Window, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Reduce the (H, W, 3) pixels of a window that is the whole of an image of this size to `OVERVIEW`, if larger."""
    if not window.is_whole(size) or max(size) <= OVERVIEW:
        return pixels
    height, width = _overview(size)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX))


def _overview(size: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) of an image of this size as a whole, pixels."""
    scale = min(OVERVIEW / max(size), 1)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


class WindowReader:
    """Reads windows of images, one image after the other; threads may share it.

    It holds the image that it read last: the pixels, or the open file where the pixels are more than Pillow's limit.
    """

    def __init__(self) -> None:
        self._lock, self._closing = Lock(), ExitStack()
        self._image: tuple[Path, tuple[int, int]] | None = None
        self._read: Callable[[Window], NDArray[np.uint8]]

    def __enter__(self) -> WindowReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def read(self, path: Path, window: Window, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Read a window of an image, which has (H, W) pixels, as (h, w, 3) uint8 RGB.

        The whole image is reduced to `OVERVIEW` pixels on its longer side, if it is larger.

        Raises:
            BCNetError: if the image cannot be read, has another size, or is huge and of a kind that is not read in
                windows; or if the reader of huge images is not installed.
        """
        with self._lock:
            if self._image != (path, size):
                self._image = None
                self._closing.close()
                self._read = self._open(path, size)
                self._image = path, size
            return self._read(window)

    def _open(self, path: Path, size: tuple[int, int]) -> Callable[[Window], NDArray[np.uint8]]:
        header = image_header(path)
        if not header.is_huge:
            pixels = read_image(path, expect_size=size)
            return lambda window: reduced(window.cut(pixels), window, size)
        source = self._closing.enter_context(open_huge(path, header, size))
        return lambda window: read_huge(source, path, header, window)


@contextmanager
def open_huge(path: Path, header: ImageHeader, size: tuple[int, int]) -> Iterator[DatasetReader]:
    """Open an image of (H, W) pixels to read windows of it.

    Raises:
        BCNetError: if the reader is not installed, or the pixels are not simply those in the file.
    """
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError
    except ImportError:
        raise usage_error(
            f"the image `{path}` has {header.width * header.height:,} pixels, too many to be read at once; reading it "
            "in parts needs rasterio",
            INSTALL,
        ) from None
    fault = _refusal(header)
    if fault is not None:
        raise data_error(
            f"the image `{path}` is too large to be read at once, and {fault}", "save it as a TIFF, upright, in RGB"
        )
    if (header.height, header.width) != size:
        raise wrong_size(path, (header.height, header.width), size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            source = rasterio.open(path, driver=DRIVERS[header.format])
    except RasterioError as error:
        raise _unreadable(path, error) from None
    try:
        yield source
    finally:
        source.close()  # not `with source`, which must end in the thread where it began


def _refusal(header: ImageHeader) -> str | None:
    """Return why windows of an image would have other pixels than the image as Pillow reads it, if so."""
    if header.format not in DRIVERS:
        return f"is a {header.format}, of which no windows are read"
    if header.orientation != 1:
        return f"is turned in its EXIF block (orientation {header.orientation})"
    if header.mode not in COLORS or not header.is_plain:
        return f"has colors of another kind than 8-bit gray, RGB or a palette ({header.mode})"
    return None


def read_huge(source: DatasetReader, path: Path, header: ImageHeader, window: Window) -> NDArray[np.uint8]:
    """Read a window of an open image as (h, w, 3) uint8 RGB; the whole image is reduced, see `WindowReader.read`.

    Raises:
        BCNetError: if this part of the file is damaged.
    """
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.errors import RasterioError
    from rasterio.windows import Window as Part

    bands = COLORS[header.mode]
    size = header.height, header.width
    shape = _overview(size) if window.is_whole(size) else (window.height, window.width)
    # A mean of two entries of a palette is a third one, of any color.
    resampling = Resampling.nearest if header.mode == "P" else Resampling.average
    try:
        with rasterio.Env(**SETTINGS):
            read: NDArray[np.uint8] = source.read(
                sorted(set(bands)), window=Part(*window), out_shape=(len(set(bands)), *shape), resampling=resampling
            )
            palette = source.colormap(1) if header.mode == "P" else None
    except RasterioError as error:
        raise _unreadable(path, error) from None
    if palette is not None:
        colors = np.zeros((256, 3), np.uint8)
        colors[list(palette)] = [color[:3] for color in palette.values()]
        picture: NDArray[np.uint8] = colors[read[0]]
        return picture
    return np.ascontiguousarray(np.stack([read[band - 1] for band in bands], axis=2))


def _unreadable(path: Path, error: Exception) -> Exception:
    reason = " ".join(str(error.__cause__ or error).split())
    return data_error(f"the image `{path}` cannot be read: {reason}", "replace the file, or leave it out")
