"""The documentation as a site: no page left out or stale, every picture shown."""

import importlib.util
import os
import re
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPO

DOCS = REPO / "docs"
PAGES = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def load(script: Path) -> Any:
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages_of(navigation: Any) -> list[str]:
    if isinstance(navigation, str):
        return [navigation]
    entries = navigation.values() if isinstance(navigation, dict) else navigation
    return [page for entry in entries for page in pages_of(entry)]


def test_every_page_is_in_the_navigation_and_on_the_first_page() -> None:
    assert sorted(pages_of(yaml.safe_load((REPO / "mkdocs.yml").read_text())["nav"])) == PAGES
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "index.md").read_text()))
    assert linked == {*PAGES} - {"index.md"}


@pytest.mark.parametrize(("page", "writer"), [("commands.md", "typer"), ("recipe-keys.md", "pydantic")])
def test_a_generated_page_is_what_the_program_says_now(page: str, writer: str) -> None:
    pinned = dict(re.findall(r"^(\S+)==(\S+)", (REPO / "constraints.txt").read_text(), re.MULTILINE))
    if version(writer) != pinned[writer]:
        pytest.skip(f"another {writer} than the pinned one may write another page")
    assert (DOCS / page).read_text() == load(DOCS / "generate.py").PAGES[page](), "run `make docs`, and commit the page"


def test_every_picture_is_shown() -> None:
    shown = {image for page in PAGES for image in re.findall(r"!\[[^]]+\]\(([^)]+)\)", (DOCS / page).read_text())}
    pictures = {str(path.relative_to(DOCS)) for end in ("png", "jpg", "svg") for path in DOCS.rglob(f"*.{end}")}
    assert shown == pictures


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("material"), reason="mkdocs-material is not installed")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", REPO / "mkdocs.yml", "-d", tmp_path]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "index.html").read_text()
    assert "Your own data" in page
    assert re.findall(r'(?:src|<link[^>]* href)="(https?:)?//', page) == []  # it is read without a network
