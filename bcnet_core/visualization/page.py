"""The html page of a gallery. Every text that comes from a data set is escaped; nothing is loaded from elsewhere.

Without its script the page shows its first pictures. The script shows the others when they are scrolled to, so that a
page of thousands is there at once; it filters, toggles, and moves between pictures and RoIs.
"""

from __future__ import annotations

import json
from collections import Counter
from html import escape
from importlib import resources
from typing import NamedTuple

from bcnet_core.annotations.rates import LEVEL_FROM
from bcnet_core.visualization.drawing import OCCLUDEE, OCCLUDER, Color, instance_color
from bcnet_core.visualization.panels import PANELS, panel_title
from bcnet_core.visualization.picture import Instance, Picture

GENERATOR = '<meta name="generator" content="bcnet viz">'
"""Marks an index.html as ours, so that nothing else is ever replaced by a gallery."""
LEVELS = tuple(LEVEL_FROM)
AT_ONCE = 20
"""Pictures that are part of the page; it holds the others as text, which takes a browser no time."""
File = tuple[str, int, int]
"""Path from the page, width and height in pixels."""


class Saved(NamedTuple):
    """The drawings of one picture on disk: panels by their keys, RoIs by the position of their instance."""

    panels: dict[str, File]
    rois: dict[int, File]


class Page:
    """Grows by one article for each picture; no pixel stays in memory.

    Attributes:
        pictures: what the script filters by: of every picture its instances, then those that were missed, each as
            number of the class, number of the level, score and IoU.
        counts: instances by class name.
        occluded: how many of them have an occluder.
        true: true instances beside detections, crowds apart.
        missed: how many of those no detection found.
        has_truth: whether any picture knows the truth beside its detections.
    """

    def __init__(self, title: str) -> None:
        self._title, self._articles = title, list[str]()
        self._classes: dict[str, int] = {}
        self._panels: set[str] = set()
        self.pictures: list[list[tuple[int, int, float | None, float | None]]] = []
        self.counts: Counter[str] = Counter()
        self.occluded = self.true = self.missed = 0
        self.has_truth = False

    def add(self, picture: Picture, saved: Saved) -> None:
        """Add a picture whose drawings are on disk."""
        missed = picture.missed
        self.counts.update(layers.category for layers in picture.instances)
        self.occluded += sum(layers.occlusion > 0 for layers in picture.instances)
        if picture.truth is not None:
            self.has_truth = True
            self.true += sum(not layers.crowd for layers in picture.truth)
            self.missed += len(missed)
        self._panels |= saved.panels.keys() | ({"rois"} if saved.rois else set())
        self.pictures.append(
            [(*self._kind(one), one.score, one.iou) for one in picture.instances]
            + [(*self._kind(one), None, 0.0) for one in missed]
        )
        self._articles.append(_article(len(self.pictures), picture, saved))

    def html(self) -> str:
        """The whole document."""
        folder = resources.files("bcnet_core.visualization")
        style, script = (folder.joinpath(f"gallery.{kind}").read_text("utf-8") for kind in ("css", "js"))
        later = [article.encode("utf-8", "xmlcharrefreplace").decode() for article in self._articles[AT_ONCE:]]
        data = json.dumps({"pictures": self.pictures, "later": later}, separators=(",", ":")).replace("</", "<\\/")
        more = f"<p>The other {len(later):,} pictures are shown by a script.</p>" if later else ""
        facts = f"{len(self.pictures):,} pictures, {self.counts.total():,} instances"
        facts += f", {self.occluded:,} with an occluder"
        if self.has_truth:
            facts += f"; {self.missed:,} of {self.true:,} true instances were missed"
        return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">{GENERATOR}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(self._title)}</title><style>{style}</style>
<noscript><style>nav{{display:none}}</style></noscript></head><body>
<header><h1>{escape(self._title)}</h1>
<p>{facts}.
In boundaries and RoIs {_swatch(OCCLUDEE)}the occludee (layer 2), {_swatch(OCCLUDER)}its occluder (layer 1);
elsewhere an instance keeps its color, and a true one has that of the detection that found it.</p></header>
{self._nav()}<noscript>{more}</noscript><main>{"".join(self._articles[:AT_ONCE])}</main>
<dialog aria-label="RoI"><img alt=""><p></p><div><button type="button" data-roi="-1">previous</button>
<button type="button" data-roi="1">next</button> <button type="button" data-close>close</button></div></dialog>
<script type="application/json">{data}</script><script>{script}</script></body></html>
"""

    def _kind(self, layers: Instance) -> tuple[int, int]:
        """The numbers of an instance's class and level."""
        return self._classes.setdefault(layers.category, len(self._classes)), LEVELS.index(layers.level)

    def _nav(self) -> str:
        """What filters, what toggles, and the way to the next picture."""
        classes = "".join(
            f'<option value="{number}">{escape(name)} ({self.counts[name]:,})</option>'
            for name, number in sorted(self._classes.items())
        )
        levels = "".join(f'<option value="{number}">{level}</option>' for number, level in enumerate(LEVELS))
        ranges = "".join(
            f'<span data-range="{column}">{title} <input type="number" min="0" max="1" step="0.05" value="0" '
            f'aria-label="least {title}"> to <input type="number" min="0" max="1" step="0.05" value="1" '
            f'aria-label="greatest {title}"></span>'
            for title, column in (("score", 2), ("IoU", 3))
            if any(one[column] is not None for rows in self.pictures for one in rows)
        )
        kinds = {key: title for key, title in PANELS.items() if key in self._panels}
        kinds |= {"true": "true ones"} if self.has_truth else {}
        kinds |= {"rois": "RoIs"} if "rois" in self._panels else {}
        toggles = "".join(
            f'<label><input type="checkbox" value="{key}" checked> {title}</label>' for key, title in kinds.items()
        )
        return (
            '<nav aria-label="pictures"><label>class <select data-column="0"><option value="">all</option>'
            f'{classes}</select></label><label>occlusion <select data-column="1"><option value="">all</option>'
            f'{levels}</select></label>{ranges}<button type="reset">reset</button>'
            f'<span class="toggles">{toggles}</span><span class="steps">'
            '<button type="button" data-step="-1" title="left arrow">previous</button> '
            '<button type="button" data-step="1" title="right arrow">next</button> <output></output></span></nav>'
        )


def _article(number: int, picture: Picture, saved: Saved) -> str:
    """The html of one picture."""
    facts = escape(_facts(picture))
    note = f'<p class="note">{escape(picture.note)}</p>' if picture.note else ""
    panels = "".join(
        f'<figure data-panel="{key.replace("true-", "true ")}">'
        + _image(file, f"{picture.name}, {panel_title(key)}: {_facts(picture)}", panel_title(key))
        for key, file in saved.panels.items()
    )
    paired = "" if picture.truth is None else " paired"
    rois = "".join(
        f'<figure data-instance="{index}">'
        + _image(file, f"{picture.name}, {_roi_title(picture.instances[index])}", _roi_title(picture.instances[index]))
        for index, file in saved.rois.items()
    )
    return (
        f'<article id="p{number}" tabindex="-1"><h2><small>{number}</small> {escape(picture.name)}</h2><p>{facts}</p>'
        f'{note}<div class="panels{paired}">{panels}</div>{_legend(picture)}'
        f'<div class="rois" data-panel="rois">{rois}</div></article>\n'
    )


def _facts(picture: Picture) -> str:
    """One sentence on a picture."""
    if picture.fault is not None:
        return picture.fault
    occluded = sum(layers.occlusion > 0 for layers in picture.instances)
    facts = f"{len(picture.instances)} instances, {occluded} with an occluder"
    if picture.truth is not None:
        true = sum(not layers.crowd for layers in picture.truth)
        facts += f"; {true - len(picture.missed)} of {true} true ones found"
    return facts


def _roi_title(layers: Instance) -> str:
    title = f"{layers.label}: occluders cover {layers.occlusion:.0%} of its box"
    if layers.truth is not None:
        return f"{title}, truly {layers.truth.occlusion:.0%}; IoU {layers.iou:.2f}"
    return title if layers.iou is None else f"{title}; no true instance is there"


def _image(file: File, alt: str, caption: str) -> str:
    path, width, height = file
    return (
        f'<a href="{path}"><img src="{path}" width="{width}" height="{height}" loading="lazy" '
        f'alt="{escape(alt)}"></a><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _legend(picture: Picture) -> str:
    """The instances in their colors, and what was missed."""
    items = []
    for layers in picture.instances:
        share = f" <small>{layers.occlusion:.0%}</small>" if layers.occlusion > 0 else ""
        iou = "" if layers.iou is None else f" <small>IoU {layers.iou:.2f}</small>"
        items.append(f"<li>{_swatch(instance_color(layers.color))}{escape(layers.label)}{share}{iou}</li>")
    items += [
        f"<li>{_swatch(instance_color(layers.color))}missed: {escape(layers.label)}</li>" for layers in picture.missed
    ]
    return f'<ul class="legend" title="share of the box that occluders cover">{"".join(items)}</ul>' if items else ""


def _swatch(color: Color) -> str:
    return '<i style="background:rgb({},{},{})"></i>'.format(*color)
