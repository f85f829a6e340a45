"""A static gallery: one index.html and its pictures, to be opened from disk without a network or a server.

Every file name is made here, so no name in a json leads outside the folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image as PillowImage

from bcnet_core.config.choices import LayerChoice, PictureFormat
from bcnet_core.errors import data_error, usage_error
from bcnet_core.files.outputs import check_output_folder
from bcnet_core.reporting import Reporter, SilentReporter
from bcnet_core.visualization.cards import drawn_size
from bcnet_core.visualization.draw import paint
from bcnet_core.visualization.drawing import Card, Drawing
from bcnet_core.visualization.page import GENERATOR, Page, Saved
from bcnet_core.visualization.panels import Rendered, render
from bcnet_core.visualization.picture import Picture
from bcnet_core.visualization.svg import to_svg

JPEG_QUALITY = 88


class Summary(NamedTuple):
    """What a gallery shows.

    Attributes:
        pictures: how many pictures.
        instances: how many instances, annotated or found, in them.
        occluded: how many of those have an occluder.
        true: beside detections, how many true instances, crowds apart; None where no ground truth is known.
        missed: how many of those no detection found.
        faults: one sentence for each image that could not be read.
    """

    pictures: int
    instances: int
    occluded: int
    true: int | None
    missed: int
    faults: tuple[str, ...]


def refuse_foreign(folder: Path, *, overwrite: bool) -> None:
    """Refuse to write a gallery over something that is there, with `overwrite` over anything but a gallery.

    Raises:
        BCNetError: if `folder` is taken.
    """
    check_output_folder(folder, overwrite=overwrite)
    if folder.is_dir() and any(folder.iterdir()) and not _is_gallery(folder):
        raise usage_error(f"`{folder}` is no gallery of `bcnet viz`, so it is not replaced", "choose another output")


def write_gallery(
    folder: Path,
    pictures: Iterable[Picture],
    *,
    title: str,
    total: int,
    layer: LayerChoice = "both",
    rois: int = 3,
    suffix: PictureFormat = "jpg",
    reporter: Reporter | None = None,
) -> Summary:
    """Draw pictures into an empty folder, one at a time, with an index.html that shows them.

    Args:
        folder: exists and is empty.
        pictures: consumed once; only one is held at a time.
        title: of the page.
        total: how many pictures there will be, for the progress.
        layer: leave out what belongs to the other layer alone.
        rois: how many instances of a picture are shown from near.
        suffix: format of the pictures; "svg" keeps shapes and text as such.
        reporter: is told the progress.

    Raises:
        BCNetError: if not one of the images can be read.
    """
    page, faults = Page(title), []
    (folder / "pictures").mkdir()
    with (reporter or SilentReporter()).progress("draw", total) as progress:
        for number, picture in enumerate(pictures, start=1):
            stem = f"pictures/{number:04d}-{safe_stem(picture.name)}"
            page.add(picture, _save(folder, stem, render(picture, layer=layer, rois=rois), suffix))
            faults += [] if picture.fault is None else [picture.fault]
            progress.advance(note=picture.name)
    if faults and len(faults) == len(page.pictures):
        raise data_error(
            f"none of the {len(faults):,} images can be read; the first: {faults[0]}",
            "say where the images are: --images FOLDER",
        )
    (folder / "index.html").write_text(page.html(), encoding="utf-8", errors="xmlcharrefreplace")
    true = page.true if page.has_truth else None
    return Summary(len(page.pictures), page.counts.total(), page.occluded, true, page.missed, tuple(faults))


def safe_stem(name: str) -> str:
    """A part of a file name made from any text: letters, digits, `-` and `_`, at most 40 of them."""
    stem = PurePosixPath(name.replace("\\", "/")).stem
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:40] or "image"


def save(drawing: Drawing | Card, path: Path) -> tuple[int, int]:
    """Write a drawing in the format that the suffix of the path names; returns (width, height) in pixels."""
    if path.suffix == ".svg":
        path.write_text(to_svg(drawing), encoding="utf-8", errors="xmlcharrefreplace")
    else:
        # full chroma resolution: thin colored outlines would be smeared otherwise; png knows no such options
        PillowImage.fromarray(paint(drawing)).save(path, quality=JPEG_QUALITY, subsampling=0)
    return drawn_size(drawing)


def _is_gallery(folder: Path) -> bool:
    """Whether `write_gallery` made this folder, and nothing was put beside it."""
    index = folder / "index.html"
    if {path.name for path in folder.iterdir()} != {"index.html", "pictures"}:
        return False
    return index.is_file() and GENERATOR in index.read_text(encoding="utf-8", errors="replace")[:1000]


def _save(folder: Path, stem: str, rendered: Rendered, suffix: PictureFormat) -> Saved:
    """Write the drawings of one picture, the panels by their keys, RoIs by the position of the instance."""

    def saved(key: str, drawing: Drawing | Card) -> tuple[str, int, int]:
        name = f"{stem}-{key}.{suffix}"
        return name, *save(drawing, folder / name)

    return Saved(
        {key: saved(key, drawing) for key, drawing in rendered.panels.items()},
        {roi.instance: saved(f"roi{roi.instance}", roi.card) for roi in rendered.rois},
    )
