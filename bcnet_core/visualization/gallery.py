"""A static gallery: one index.html and its pictures, opened from disk without network or server.

All file names are made here, so no name in a json leads outside the folder, and all text from a data set is escaped.
The first pictures are part of the page; its script adds the others when they are scrolled to, so that thousands load
at once. It also filters, toggles panels, and steps through pictures and RoIs.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources
from pathlib import Path, PurePosixPath
from string import Template
from typing import Literal, NamedTuple

from bcnet_core.annotations.rates import LEVEL_FROM
from bcnet_core.config.choices import LayerChoice, PictureFormat
from bcnet_core.errors import data_error, usage_error
from bcnet_core.files.outputs import check_output_folder
from bcnet_core.files.videos import SUFFIXES as VIDEO_SUFFIXES
from bcnet_core.reporting import Reporter, SilentReporter, visible
from bcnet_core.visualization.closeups import choose_rois, roi_card
from bcnet_core.visualization.draw import save
from bcnet_core.visualization.drawing import OCCLUDEE, OCCLUDER, Color, instance_color
from bcnet_core.visualization.panels import PANELS, draw_panels, panel_title
from bcnet_core.visualization.picture import Instance, Picture

GENERATOR = '<meta name="generator" content="bcnet viz">'
"""Marks an index.html as a gallery, so that nothing else is ever replaced by one."""
LEVELS = tuple(LEVEL_FROM)
AT_ONCE = 20
"""Pictures whose html is part of the page; it holds the others as text, which browsers load instantly."""
HATCHED = "\nHidden parts are hatched; arrows (--order) lead from the instance in front to the one behind it."
File = tuple[str, int, int]
"""Path relative to the page, width and height in pixels."""


class Summary(NamedTuple):
    """Counts of a gallery, and a sentence for each image that could not be read.

    `instances` were annotated or found, `occluded` of them have an occluder. `true` instances (None without ground
    truth beside detections) and those `missed` are without crowds. `wholes` have a whole mask.
    """

    pictures: int
    instances: int
    occluded: int
    true: int | None
    missed: int
    faults: tuple[str, ...]
    wholes: int


def check_replaceable(folder: Path, *, overwrite: bool) -> None:
    """Require a folder that is absent or empty, or a gallery if `overwrite` is set."""
    check_output_folder(folder, overwrite=overwrite)
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    index = folder / "index.html"
    if names and not (
        names == {index.name, "pictures"}
        and index.is_file()
        and GENERATOR in index.read_text(encoding="utf-8", errors="replace")[:1000]
    ):
        raise usage_error(f"`{folder}` is not a gallery of `bcnet viz`, so it is not replaced", "choose another output")


def write_gallery(
    folder: Path,
    pictures: Iterable[Picture],
    *,
    title: str,
    total: int,
    layer: LayerChoice = "both",
    boxes: bool = False,
    order: bool = False,
    rois: int = 3,
    suffix: PictureFormat = "jpg",
    reporter: Reporter | None = None,
) -> Summary:
    """Draw pictures into an empty folder, with an index.html that shows them; one picture is held at a time.

    `total` is the number of pictures, for the progress display; `boxes` draws all boxes and `order` arrows
    (`draw_panels`), and `rois` is the number of close-ups of each. It is an error if no image at all can be read.
    """
    page, filmed = Page(title), False
    (folder / "pictures").mkdir()
    with (reporter or SilentReporter()).progress("draw", total) as progress:
        for number, picture in enumerate(pictures, start=1):
            filmed |= Path(picture.name).suffix.lower() in VIDEO_SUFFIXES
            stem = f"pictures/{number:04d}-{safe_stem(picture.name)}"
            cards = {index: roi_card(picture, index, layer=layer) for index in choose_rois(picture.instances, rois)}
            files: dict[str | int, File] = {}
            panels = draw_panels(picture, layer=layer, boxes=boxes, order=order)
            for key, drawing in (panels | cards).items():
                name = f"{stem}-{key if isinstance(key, str) else f'roi{key}'}.{suffix}"
                files[key] = name, *save(drawing, folder / name)
            page.add(picture, files)
            progress.advance(note=picture.name)
    summary = page.summary()
    if summary.faults and len(summary.faults) == summary.pictures:
        raise data_error(
            f"none of the {summary.pictures:,} images can be read; the first: {summary.faults[0]}",
            "say where the images are: --images FOLDER",
            *(["or draw the frames of the video: bcnet viz RUN --video FILE"] if filmed else []),
        )
    (folder / "index.html").write_text(page.html(), encoding="utf-8", errors="xmlcharrefreplace")
    return summary


def safe_stem(name: str) -> str:
    """Make part of a file name from any text: at most 40 letters, digits, `-` and `_`."""
    stem = PurePosixPath(name.replace("\\", "/")).stem
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:40] or "image"


class Page:
    """The index.html of a gallery: one article per picture; holds no pixels."""

    def __init__(self, title: str) -> None:
        self._title, self._articles, self._summaries = title, list[str](), list[Summary]()
        self._rows: list[list[tuple[int, int, float | None, float | None]]] = []  # the script filters by these
        self._classes: dict[str, int] = {}
        self._counts: Counter[str] = Counter()
        self._panels: set[str] = set()

    def add(self, picture: Picture, files: Mapping[str | int, File]) -> None:
        """Add a picture whose files are written: panels by key, close-ups by index of their instance."""
        self._summaries.append(_summary(picture))
        self._counts.update(instance.category for instance in picture.instances)
        self._panels.update("rois" if isinstance(key, int) else key for key in files)
        self._rows.append(
            [(*self._kind(one), one.score, one.iou) for one in picture.instances]
            + [(*self._kind(one), None, 0.0) for one in picture.missed]
        )
        self._articles.append(_article(len(self._rows), picture, files))

    def _kind(self, instance: Instance) -> tuple[int, int]:
        """Return the numbers of an instance's class and level of occlusion."""
        return self._classes.setdefault(instance.category, len(self._classes)), LEVELS.index(instance.level)

    def summary(self) -> Summary:
        """Return the counts so far."""
        pictures, instances, occluded, true, missed, faults, wholes = zip(*self._summaries, strict=True)
        known = [number for number in true if number is not None]
        return Summary(
            sum(pictures), sum(instances), sum(occluded), sum(known) if known else None, sum(missed), sum(faults, ()),
            sum(wholes),
        )  # fmt: skip

    def html(self) -> str:
        """Return the whole document."""
        folder = resources.files("bcnet_core.visualization")
        document, style, script = (
            folder.joinpath(f"gallery.{kind}").read_text("utf-8") for kind in ("html", "css", "js")
        )
        later = [article.encode("utf-8", "xmlcharrefreplace").decode() for article in self._articles[AT_ONCE:]]
        data = json.dumps({"pictures": self._rows, "later": later}, separators=(",", ":")).replace("</", "<\\/")
        return Template(document).substitute(
            generator=GENERATOR, title=_text(self._title), style=style, data=data, script=script,
            facts=f"{len(self._rows):,} pictures, {_facts(self.summary())}",
            hatched=HATCHED if "whole" in self._panels else "",
            occludee=_swatch(OCCLUDEE), occluder=_swatch(OCCLUDER), articles="".join(self._articles[:AT_ONCE]),
            more=f"<p>The other {len(later):,} pictures need JavaScript.</p>" if later else "", **self._controls(),
        )  # fmt: skip

    def _controls(self) -> dict[str, str]:
        """Return the options, ranges and toggles of the page's navigation by their names in gallery.html."""
        kinds = {key: title for key, title in PANELS.items() if key in self._panels}
        kinds |= {"true": "ground truth"} if self.summary().true is not None else {}
        kinds |= {"rois": "RoIs"} if "rois" in self._panels else {}
        return {
            "classes": "".join(
                f'<option value="{number}">{_text(name)} ({self._counts[name]:,})</option>'
                for name, number in sorted(self._classes.items())
            ),
            "levels": "".join(f'<option value="{number}">{level}</option>' for number, level in enumerate(LEVELS)),
            "ranges": "".join(
                f'<span data-range="{column}">{title} <input type="number" min="0" max="1" step="0.05" value="0" '
                f'aria-label="minimum {title}"> to <input type="number" min="0" max="1" step="0.05" value="1" '
                f'aria-label="maximum {title}"></span>'
                for title, column in (("score", 2), ("IoU", 3))
                if any(row[column] is not None for rows in self._rows for row in rows)
            ),
            "toggles": "".join(
                f'<label><input type="checkbox" value="{key}" checked> {title}</label>' for key, title in kinds.items()
            ),
        }


def _article(number: int, picture: Picture, files: Mapping[str | int, File]) -> str:
    facts, panels, rois = picture.fault or _facts(_summary(picture)), "", ""
    for key, file in files.items():
        if isinstance(key, int):
            rois += _figure(f'data-instance="{key}"', file, picture, _roi_title(picture.instances[key]))
        else:
            panels += _figure(f'data-panel="{key.replace("true-", "true ")}"', file, picture, panel_title(key), facts)
    note = f'<p class="note">{_text(picture.note)}</p>' if picture.note else ""
    return (
        f'<article id="p{number}" tabindex="-1"><h2><small>{number}</small> {_text(picture.name)}</h2>'
        f'<p>{_text(facts)}</p>{note}<div class="panels{"" if picture.truth is None else " paired"}">{panels}</div>'
        f'{_legend(picture)}<div class="rois" data-panel="rois">{rois}</div></article>\n'
    )


def _summary(picture: Picture) -> Summary:
    return Summary(
        pictures=1,
        instances=len(picture.instances),
        occluded=sum(instance.occlusion > 0 for instance in picture.instances),
        true=None if picture.truth is None else sum(not instance.crowd for instance in picture.truth),
        missed=len(picture.missed),
        faults=() if picture.fault is None else (picture.fault,),
        wholes=sum(instance.whole is not None for instance in picture.instances),
    )


def _facts(summary: Summary) -> str:
    facts = f"{summary.instances:,} instances, {summary.occluded:,} with an occluder"
    if summary.true is not None:
        facts += f"; {summary.true - summary.missed:,} of {summary.true:,} true instances found"
    return facts


def _roi_title(instance: Instance) -> str:
    title = f"{instance.label}: occluders cover {_share(instance, 'occlusion')} of its box"
    if instance.occlusion_rate is not None:
        title += f", {_share(instance, 'occlusion_rate')} of it is hidden"
    if instance.truth is not None:
        return f"{title}; IoU {instance.iou:.2f}"
    return title if instance.iou is None else f"{title}; no true instance matches"


def _share(instance: Instance, name: Literal["occlusion", "occlusion_rate"]) -> str:
    """Return a share of an instance, and that of the true one if it is known."""
    true = None if instance.truth is None else getattr(instance.truth, name)
    return f"{getattr(instance, name):.0%}" + ("" if true is None else f" (in truth {true:.0%})")


def _figure(attribute: str, file: File, picture: Picture, caption: str, facts: str = "") -> str:
    path, width, height = file
    alt = _text(f"{picture.name}, {caption}" + (f": {facts}" if facts else ""))
    return (
        f'<figure {attribute}><a href="{path}"><img src="{path}" width="{width}" height="{height}" loading="lazy" '
        f'alt="{alt}"></a><figcaption>{_text(caption)}</figcaption></figure>'
    )


def _legend(picture: Picture) -> str:
    """List the instances in their colors, then the missed ones."""
    items = []
    for instance in picture.instances:
        share = f" <small>{instance.occlusion:.0%}</small>" if instance.occlusion > 0 else ""
        iou = "" if instance.iou is None else f" <small>IoU {instance.iou:.2f}</small>"
        items.append(f"<li>{_swatch(instance_color(instance.color))}{_text(instance.label)}{share}{iou}</li>")
    items += [f"<li>{_swatch(instance_color(one.color))}missed: {_text(one.label)}</li>" for one in picture.missed]
    title = "percentage of the box that occluders cover"
    return f'<ul class="legend" title="{title}">{"".join(items)}</ul>' if items else ""


def _swatch(color: Color) -> str:
    return '<i style="background:rgb({},{},{})"></i>'.format(*color)


def _text(text: str) -> str:
    """Return text from a data set as html shows it."""
    return escape(visible(text))
