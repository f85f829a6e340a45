"""Make the pictures of docs/gallery.md: draw a run with `bcnet viz`, and photograph its page in Chromium.

Run: `make demo`, then `make gallery`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
JPEG = {"type": "jpeg", "quality": 85}
VIZ = [sys.executable, "-c", "from bcnet_cli.app import main; main()", "viz"]


def shoot_page(page: Page, folder: Path) -> None:
    """The states of a gallery, one after the other."""
    page.set_viewport_size({"width": 1000, "height": 1900})  # so that nothing is scrolled beneath the navigation
    page.goto((folder / "index.html").as_uri())
    page.wait_for_function("[...document.querySelectorAll('#p1 .panels img')].every(image => image.naturalWidth > 0)")
    page.locator("#p1 .panels").screenshot(path=HERE / "run.jpg", **JPEG)
    page.set_viewport_size({"width": 1000, "height": 760})
    page.locator("#p1 [data-instance] a").first.click()
    page.wait_for_timeout(500)
    page.screenshot(path=HERE / "open.jpg", **JPEG)
    page.keyboard.press("Escape")
    page.locator("select[data-column='1']").select_option(label="heavy")
    page.get_by_label("greatest IoU").fill("0.6")
    for panel in ("image", "occludee layer", "occluder layer", "boundaries"):
        page.get_by_label(panel, exact=True).uncheck()
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(500)
    page.screenshot(path=HERE / "filtered.jpg", **JPEG)


def main(run: str) -> None:
    """Draw the pictures that a run found worst to segment among the occluded ones, and photograph them."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name) / "viz"
        options = ["--most-occluded", "12", "--score", "0.5", "--format", "png", "--device", "cpu"]
        subprocess.run([*VIZ, run, "-o", str(folder), *options], check=True)
        card = min((folder / "pictures").glob("0001-*-roi*.png"))
        shutil.copyfile(card, HERE / "roi.png")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        shoot_page(browser.new_page(), folder)
        phone = browser.new_page(viewport={"width": 390, "height": 780}, device_scale_factor=1, is_mobile=True)
        phone.goto((folder / "index.html").as_uri())
        phone.wait_for_timeout(500)
        phone.screenshot(path=HERE / "phone.jpg", **JPEG)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "out/demo/run")
