"""The gallery in a real browser: Chromium, from disk, with a mouse, without one, and on a phone's width."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bcnet_core import masks
from bcnet_core.visualization.gallery import AT_ONCE, write_gallery
from bcnet_core.visualization.picture import Instance, Picture, match_truth

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install it, or name it in $CHROMIUM")

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
COUNT = AT_ONCE + 4


def picture(number: int) -> Picture:
    """Even ones: a dog that hides half of another, both found; odd ones: a cat in full view that was found badly."""
    image = np.full((90, 120, 3), 40 + 5 * number, np.uint8)
    whole, part = masks.from_box(20, 20, 60, 60, 90, 120), masks.from_box(40, 20, 60, 60, 90, 120)
    other = masks.from_box(60, 20, 90, 60, 90, 120)
    if number % 2:
        found = [Instance("cat", (20, 20, 60, 60), part, score=0.6)]
        true = [Instance("cat", (20, 20, 60, 60), whole)]
    else:
        true = [Instance("dog", (20, 20, 60, 60), whole), Instance("dog", (40, 20, 90, 60), other, part)]
        found = [replace(layers, score=score) for layers, score in zip(true, (0.9, 0.7), strict=True)]
    instances, truth = match_truth(found, true)
    return Picture(f"{number}.jpg", image, instances, truth)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gallery")
    write_gallery(folder, map(picture, range(COUNT)), title="test", total=COUNT)
    return folder / "index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, gallery: Path) -> Iterator[Any]:
    """The gallery in an open page; script errors and requests to other hosts fail the test."""
    opened, faults = browser.new_page(viewport={"width": 1200, "height": 900}), []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    opened.on("request", lambda request: None if request.url.startswith("file://") else faults.append(request.url))
    opened.goto(gallery.as_uri())
    yield opened
    opened.close()
    assert not faults


def shown(page: Any, selector: str) -> int:
    """Count the rendered elements, wherever the page is scrolled to."""
    count: int = page.evaluate(
        "selector => [...document.querySelectorAll(selector)].filter(one => one.getClientRects().length).length",
        selector,
    )
    return count


def test_it_loads(page: Any) -> None:
    assert shown(page, "article") == COUNT
    page.wait_for_function("document.querySelector('article img').naturalWidth > 0")
    assert page.evaluate("[...document.images].every(image => image.alt || image.closest('dialog'))")
    heading = page.locator("article").first.locator("h2")
    assert heading.inner_text() == "1 0.jpg"


def test_later_pictures_load_when_scrolled_to(page: Any) -> None:
    last = page.locator("article").last
    assert last.inner_html() == ""
    last.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('article:last-of-type img')?.naturalWidth > 0")
    assert last.locator("h2").inner_text() == f"{COUNT} {COUNT - 1}.jpg"


@pytest.mark.parametrize(
    ("column", "option", "pictures", "rois"),
    [
        ("0", "dog (24)", 12, 2),
        ("0", "cat (12)", 12, 1),
        ("1", "heavy", 12, 1),
        ("1", "none", 24, 1),
        ("1", "light", 0, 0),
    ],
)
def test_filters_by_class_and_occlusion(page: Any, column: str, option: str, pictures: int, rois: int) -> None:
    page.locator(f"select[data-column='{column}']").select_option(label=option)
    assert shown(page, "article") == pictures
    assert page.locator("output").inner_text() == f"{pictures} pictures"
    first = page.locator("article:not([hidden])").first
    if pictures:
        assert first.locator("[data-instance]:not([hidden])").count() == rois
        assert first.locator(".legend li:not([hidden])").count() == rois
    page.get_by_role("button", name="reset").click()
    assert shown(page, "article") == COUNT


@pytest.mark.parametrize(
    ("name", "value", "pictures"),
    [
        ("minimum score", "0.85", 12),
        ("maximum score", "0.65", 12),
        ("maximum IoU", "0.6", 12),
        ("minimum IoU", "0.6", 12),
    ],
)
def test_filters_by_score_and_iou(page: Any, name: str, value: str, pictures: int) -> None:
    page.get_by_label(name).fill(value)
    page.keyboard.press("Tab")
    assert shown(page, "article") == pictures
    page.locator("select[data-column='0']").select_option(label="cat (12)")
    assert shown(page, "article") == (12 if name.startswith("maximum") else 0)  # both must hold


def test_panels_are_toggled(page: Any) -> None:
    before = shown(page, "[data-panel='occluder']")
    assert before == AT_ONCE == shown(page, "[data-panel~='occluder'][data-panel~='true']")
    page.get_by_label("occluder layer").uncheck()
    assert shown(page, "[data-panel~='occluder']") == 0 and shown(page, "[data-panel='occludee']") == AT_ONCE
    page.get_by_label("ground truth").uncheck()
    assert shown(page, "[data-panel~='true']") == 0
    page.get_by_label("occluder layer").check()
    assert shown(page, "[data-panel='occluder']") == AT_ONCE
    page.get_by_label("RoIs").uncheck()
    assert shown(page, "[data-instance]") == 0


def test_keyboard_navigation_between_rois(page: Any) -> None:
    dialog = page.locator("dialog")
    page.locator("article").first.locator("[data-instance] a").first.focus()
    page.keyboard.press("Enter")
    assert dialog.is_visible() and dialog.locator("p").inner_text().startswith("1 0.jpg: dog 0.70")
    page.wait_for_function("document.querySelector('dialog img').naturalWidth > 0")
    page.keyboard.press("ArrowRight")
    assert dialog.locator("p").inner_text().startswith("1 0.jpg: dog 0.90")
    page.keyboard.press("ArrowRight")
    assert dialog.locator("p").inner_text().startswith("2 1.jpg: cat 0.60")
    assert "IoU 0.50" in dialog.locator("p").inner_text()
    page.keyboard.press("ArrowLeft")
    assert dialog.locator("p").inner_text().startswith("1 0.jpg: dog 0.90")
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert page.evaluate("document.activeElement.closest('article').id") == "p1"


def test_stepping_through_rois_to_the_end(page: Any) -> None:
    dialog = page.locator("dialog")
    page.locator("select[data-column='0']").select_option(label="cat (12)")
    page.locator("article:not([hidden]) [data-instance]:not([hidden]) a").first.click()
    for _ in range(20):
        dialog.get_by_role("button", name="next").click()
    assert dialog.locator("p").inner_text().startswith(f"{COUNT} {COUNT - 1}.jpg: cat")  # among the later ones
    dialog.get_by_role("button", name="close").click()
    assert not dialog.is_visible()


def test_arrows_move_between_pictures(page: Any) -> None:
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.id") == "p2"
    assert page.locator("output").inner_text() == f"2 of {COUNT}"
    top = page.evaluate("document.activeElement.getBoundingClientRect().top")
    assert 0 <= top < 450
    page.locator("select[data-column='0']").focus()
    page.keyboard.press("ArrowRight")  # belongs to the select
    assert page.evaluate("document.activeElement.tagName") == "SELECT"


def test_a_phone_needs_no_horizontal_scrolling(browser: Any, gallery: Path) -> None:
    phone = browser.new_page(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    phone.goto(gallery.as_uri())
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.locator("[data-instance] a").first.tap()
    assert phone.locator("dialog").is_visible()
    box = phone.locator("dialog").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    phone.close()


def test_the_first_pictures_show_without_javascript(browser: Any, gallery: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(gallery.as_uri())
    assert plain.locator("article").count() == AT_ONCE and not plain.locator("nav").is_visible()
    assert f"The other {COUNT - AT_ONCE} pictures" in plain.content()
    context.close()
