"""A static gallery: one index.html and its pictures, to be opened from disk without a network or a server.

Every text that comes from a data set is escaped; every file name is made here, so no name in a json leads
outside the folder. The page works without its script, which only filters, toggles and moves between pictures.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image as PillowImage

from bcnet_core.errors import data_error, usage_error
from bcnet_core.outputs import refuse_existing_folder
from bcnet_core.reporting import Reporter, SilentReporter
from bcnet_core.visualization import draw
from bcnet_core.visualization.panels import PANELS, Picture, Rendered, render

GENERATOR = '<meta name="generator" content="bcnet viz">'
"""Marks an index.html as ours, so that nothing else is ever replaced by a gallery."""


class Summary(NamedTuple):
    """What a gallery shows.

    Attributes:
        pictures: how many pictures.
        instances: how many instances in them.
        occluded: how many of those have an occluder.
        faults: one sentence for each image that could not be read.
    """

    pictures: int
    instances: int
    occluded: int
    faults: tuple[str, ...]


@dataclass
class _Page:
    """The parts of the page that grow with every picture; no pixel stays in memory."""

    articles: list[str] = field(default_factory=list)
    classes: dict[str, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    occluded: int = 0


def refuse_foreign(folder: Path, *, overwrite: bool) -> None:
    """Refuse to write a gallery over something that is there, with `overwrite` over anything but a gallery.

    Raises:
        BCNetError: if `folder` is taken.
    """
    refuse_existing_folder(folder, overwrite=overwrite)
    if folder.is_dir() and any(folder.iterdir()) and not _is_gallery(folder):
        raise usage_error(f"`{folder}` is no gallery of `bcnet viz`, so it is not replaced", "choose another output")


def write_gallery(
    folder: Path,
    pictures: Iterable[Picture],
    *,
    title: str,
    total: int,
    reporter: Reporter | None = None,
) -> Summary:
    """Draw pictures into an empty folder, one at a time, with an index.html that shows them.

    Args:
        folder: exists and is empty.
        pictures: consumed once; only one is held at a time.
        title: of the page.
        total: how many pictures there will be, for the progress.
        reporter: is told the progress.

    Raises:
        BCNetError: if not one of the images can be read.
    """
    page = _Page()
    (folder / "pictures").mkdir()
    with (reporter or SilentReporter()).progress("draw", total) as progress:
        for number, picture in enumerate(pictures, start=1):
            stem = f"pictures/{number:04d}-{safe_stem(picture.name)}"
            page.articles.append(_article(page, number, picture, _save(folder, stem, render(picture))))
            progress.advance(note=picture.name)
    if page.faults and len(page.faults) == len(page.articles):
        raise data_error(
            f"none of the {len(page.faults):,} images can be read; the first: {page.faults[0]}",
            "say where the images are: --images FOLDER",
        )
    index = folder / "index.html"
    index.write_text(_document(page, title), encoding="utf-8", errors="xmlcharrefreplace")
    return Summary(len(page.articles), page.counts.total(), page.occluded, tuple(page.faults))


def safe_stem(name: str) -> str:
    """A part of a file name made from any text: letters, digits, `-` and `_`, at most 40 of them."""
    stem = PurePosixPath(name.replace("\\", "/")).stem
    return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:40] or "image"


def _is_gallery(folder: Path) -> bool:
    """Whether `write_gallery` made this folder, and nothing was put beside it."""
    index = folder / "index.html"
    if {path.name for path in folder.iterdir()} != {"index.html", "pictures"}:
        return False
    return index.is_file() and GENERATOR in index.read_text(encoding="utf-8", errors="replace")[:1000]


def _save(folder: Path, stem: str, rendered: Rendered) -> dict[str, tuple[str, int, int]]:
    """Write the drawings of one picture: (path, width, height) by panel key, close-ups by their position."""
    drawings = dict(rendered.panels) | {str(part.instance): part.image for part in rendered.closeups}
    saved: dict[str, tuple[str, int, int]] = {}
    for key, drawing in drawings.items():
        name = f"{stem}-{key if key in PANELS else 'closeup' + key}.jpg"
        # Full chroma resolution: thin coloured outlines would be smeared otherwise.
        PillowImage.fromarray(drawing).save(folder / name, quality=88, subsampling=0)
        saved[key] = (name, drawing.shape[1], drawing.shape[0])
    return saved


def _article(page: _Page, number: int, picture: Picture, saved: dict[str, tuple[str, int, int]]) -> str:
    """The html of one picture; what it holds is added to the page's sums."""
    occluded = sum(layers.occlusion > 0 for layers in picture.instances)
    page.occluded += occluded
    names = [layers.category for layers in picture.instances]
    page.counts.update(names)
    classes = sorted({page.classes.setdefault(name, len(page.classes)) for name in names})
    facts = f"{len(names)} instances, {occluded} with an occluder"
    if picture.fault is not None:
        page.faults.append(picture.fault)
        facts = picture.fault
    note = f'<p class="note">{escape(picture.note)}</p>' if picture.note else ""
    figures = [
        _figure(saved[key], key, caption, f"{picture.name}, {caption}: {facts}")
        for key, caption in PANELS.items()
        if key in saved
    ]
    return (
        f'<article id="p{number}" tabindex="-1" data-classes="{" ".join(map(str, classes))}">'
        f"<h2><small>{number}</small> {escape(picture.name)}</h2><p>{escape(facts)}</p>{note}"
        f'<div class="panels">{"".join(figures)}</div>{_legend(picture)}'
        f'<div class="closeups" data-panel="closeups">{_closeups(picture, saved)}</div></article>'
    )


def _closeups(picture: Picture, saved: dict[str, tuple[str, int, int]]) -> str:
    figures = []
    for key, drawing in saved.items():
        if key not in PANELS:
            layers = picture.instances[int(key)]
            caption = f"{layers.label}: occluders cover {layers.occlusion:.0%} of its box"
            figures.append(_figure(drawing, "closeups", caption, f"{picture.name}, {caption}"))
    return "".join(figures)


def _figure(saved: tuple[str, int, int], panel: str, caption: str, alt: str) -> str:
    path, width, height = saved
    return (
        f'<figure data-panel="{panel}"><a href="{path}"><img src="{path}" width="{width}" height="{height}" '
        f'loading="lazy" alt="{escape(alt)}"></a><figcaption>{escape(caption)}</figcaption></figure>'
    )


def _legend(picture: Picture) -> str:
    items = []
    for index, layers in enumerate(picture.instances):
        red, green, blue = draw.instance_colour(index)
        share = f" <small>{layers.occlusion:.0%}</small>" if layers.occlusion > 0 else ""
        items.append(f'<li><i style="background:rgb({red},{green},{blue})"></i>{escape(layers.label)}{share}</li>')
    return f'<ul class="legend" title="share of the box that occluders cover">{"".join(items)}</ul>' if items else ""


def _document(page: _Page, title: str) -> str:
    options = "".join(
        f'<option value="{page.classes[name]}">{escape(name)} ({count})</option>'
        for name, count in sorted(page.counts.items())
    )
    toggles = "".join(
        f'<label><input type="checkbox" value="{key}" checked> {caption}</label>'
        for key, caption in (*PANELS.items(), ("closeups", "close-ups"))
    )
    occluder, occludee = ("rgb({},{},{})".format(*colour) for colour in (draw.OCCLUDER, draw.OCCLUDEE))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">{GENERATOR}
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head><body>
<header><h1>{escape(title)}</h1>
<p>{len(page.articles)} pictures, {page.counts.total()} instances, {page.occluded} with an occluder.
In boundaries and close-ups <i style="background:{occludee}"></i>the occludee (layer 2),
<i style="background:{occluder}"></i>its occluder (layer 1);
elsewhere an instance keeps its colour.</p></header>
<nav aria-label="pictures"><select aria-label="class"><option value="">all classes</option>{options}</select>
{toggles}<span><button type="button" data-step="-1" title="left arrow">previous</button>
<button type="button" data-step="1" title="right arrow">next</button> <output></output></span></nav>
<main>{"".join(page.articles)}</main><script>{SCRIPT}</script></body></html>
"""


STYLE = """
:root{color-scheme:light dark;--ground:#fafaf8;--ink:#202124;--faint:#5f6368;--line:#dcdcd6;--card:#fff}
@media(prefers-color-scheme:dark){:root{--ground:#17181a;--ink:#e8e8e6;--faint:#a0a4a8;--line:#383a3d;--card:#202124}}
*{box-sizing:border-box}[hidden]{display:none!important}
body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.45 system-ui,sans-serif}
header,main{max-width:1500px;margin:auto;padding:0 16px}
h1{font-size:1.4rem;margin:20px 0 4px}p{margin:4px 0 10px}
nav{position:sticky;top:0;z-index:1;display:flex;flex-wrap:wrap;gap:4px 14px;align-items:center;
padding:8px 16px;background:var(--ground);border-bottom:1px solid var(--line)}nav span{margin-left:auto}
select,button{font:inherit;padding:3px 8px;max-width:60vw}output,small,.note,article>p{color:var(--faint)}
article{padding:14px 0 22px;border-bottom:1px solid var(--line);scroll-margin-top:90px;outline-offset:6px}
h2{font-size:1.05rem;margin:0;overflow-wrap:anywhere}.note{font-style:italic}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,400px),1fr));gap:10px;align-items:start}
figure{margin:0;min-width:0}figcaption{color:var(--faint);font-size:.87em}
img{display:block;max-width:100%;height:auto;border-radius:4px}.panels img{width:100%}
.closeups{display:flex;flex-wrap:wrap;gap:12px}.closeups img{border:1px solid var(--line)}
i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.35em;vertical-align:-.05em}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;list-style:none;padding:0;margin:8px 0 12px;font-size:.9em}
.legend li{overflow-wrap:anywhere}
@media(max-width:600px){nav{position:static;padding:8px 12px}header,main{padding:0 12px}
article{scroll-margin-top:8px}}
"""

SCRIPT = """
const articles = [...document.querySelectorAll("article")], select = document.querySelector("select");
const shown = () => articles.filter(article => !article.hidden);
const output = document.querySelector("output");
let current = null;
function step(by) {
  const list = shown();
  if (!list.length) return;
  const at = list.indexOf(current), next = at < 0 ? (by > 0 ? 0 : list.length - 1) : at + by;
  current = list[Math.min(Math.max(next, 0), list.length - 1)];
  current.scrollIntoView();
  current.focus({preventScroll: true});
  output.textContent = list.indexOf(current) + 1 + " of " + list.length;
}
select.addEventListener("change", () => {
  for (const article of articles)
    article.hidden = select.value !== "" && !article.dataset.classes.split(" ").includes(select.value);
  output.textContent = shown().length + " pictures";
});
for (const box of document.querySelectorAll("nav input")) box.addEventListener("change", () => {
  const parts = document.querySelectorAll('[data-panel="' + box.value + '"]');
  for (const part of parts) part.hidden = !box.checked;
});
for (const button of document.querySelectorAll("nav button"))
  button.addEventListener("click", () => step(Number(button.dataset.step)));
document.addEventListener("keydown", event => {
  if (event.altKey || event.ctrlKey || event.metaKey || /^(SELECT|INPUT)$/.test(event.target.tagName)) return;
  if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
    event.preventDefault();
    step(event.key === "ArrowRight" ? 1 : -1);
  }
});
"""
