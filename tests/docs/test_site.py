"""The documentation as a site: no page left out or stale, every picture shown, the scripts do what the pages say."""

import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from bcnet_core.annotations.coco import read_coco, segmentation_rle
from bcnet_core.masks import decode
from tests.conftest import REPO, Bcnet

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


def test_masks_in_png_files_become_the_very_masks(scenes: Path, tmp_path: Path, bcnet: Bcnet) -> None:
    truth = read_coco(scenes / "annotations/instances_val.json")
    (tmp_path / "masks").mkdir()
    expected = []
    for number, image in enumerate(truth.images, start=1):
        values = np.zeros((image["height"], image["width"]), np.uint16)
        annotations = [annotation for annotation in truth.annotations if annotation["image_id"] == image["id"]]
        for instance, annotation in enumerate(annotations, start=1):
            rle = segmentation_rle(annotation, image)
            assert rle
            value = 1000 * (annotation["category_id"] - 1) + instance
            values[decode(rle)] = value
            expected.append((number, value, annotation["category_id"], annotation["bbox"], rle["counts"].decode()))
        Image.fromarray(values).save(tmp_path / "masks" / Path(image["file_name"]).with_suffix(".png").name)
    names = [category["name"] for category in truth.categories]
    output = tmp_path / "all.json"
    load(DOCS / "own-data" / "masks.py").main(str(scenes / "val"), str(tmp_path / "masks"), str(output), *names)

    made = read_coco(output)
    assert [category["name"] for category in made.categories] == names
    found = [(a["image_id"], a["category_id"], a["bbox"], a["segmentation"]["counts"]) for a in made.annotations]
    assert found == [(image, *rest) for image, _, *rest in sorted(expected, key=lambda instance: instance[:2])]
    assert bcnet("annotate", output, "-o", tmp_path / "bilayer.json", "--dry-run").returncode == 0


Script = Callable[..., int]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Script:
    """`python docs/own-data/NAME ARGUMENTS` in this process and an empty folder; gives the exit code."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        try:
            runpy.run_path(str(DOCS / "own-data" / name), run_name="__main__")
        except SystemExit as end:
            return int(str(end.code))
        return 0

    return run


def write_mask(name: str, values: Any) -> None:
    """A photo of a name in `photos`, and a mask of these numbers in `masks`."""
    array = np.asarray(values)
    for folder in ("photos", "masks"):
        Path(folder).mkdir(exist_ok=True)
    Image.new("RGB", array.shape[1::-1]).save(Path("photos", f"{name}.jpg"))
    Image.fromarray(array).save(Path("masks", f"{name}.png"))


def test_masks_take_photos_alone_and_instance_numbers_start_anew(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mask("a", np.uint16([[0, 1, 1001], [0, 2, 1001]]))
    write_mask("b", np.uint16([[0, 1, 1001], [0, 1, 1001]]))
    Path("photos", "Thumbs.db").write_bytes(b"")
    assert script("masks.py", "photos", "masks", "all.json", "cell", "nucleus") == 0
    assert capsys.readouterr().out == "all.json: 2 photos, 5 instances, 2 classes\n"
    made = read_coco(Path("all.json"))
    assert [image["file_name"] for image in made.images] == ["a.jpg", "b.jpg"]
    numbers = [(instance["image_id"], instance["category_id"], instance["area"]) for instance in made.annotations]
    assert numbers == [(1, 1, 1), (1, 1, 1), (1, 2, 2), (2, 1, 2), (2, 2, 2)]


@pytest.mark.parametrize(
    ("second", "arguments", "says"),
    [
        (np.zeros((2, 2, 3), np.uint8), "photos masks all.json cell", "masks/b.png has 3 channels: "),
        (np.uint16([[0, 1001]]), "photos masks all.json cell", "masks/b.png holds 1001, class 1 from 0, but 1 class"),
        (np.uint16([[0, 1]]), "photos nowhere all.json cell", "nowhere/a.png is missing: "),
        (np.uint16([[0, 1]]), "nowhere masks all.json cell", "nowhere is not a folder with photos"),
        (np.uint16([[0, 1]]), "empty masks all.json cell", "empty is not a folder with photos"),
        (np.uint16([[0, 1]]), "photos masks nowhere/all.json cell", "nowhere/all.json cannot be written: "),
        (np.uint16([[0, 1]]), "twins masks all.json cell", "twins holds two photos whose names differ in the suffix "),
        (np.uint16([[0, 1]]), "photos broken all.json cell", "broken/a.png cannot be read: "),
        (np.uint16([[0, 1]]), "photos empty_masks all.json cell", "the masks in empty_masks hold no instance"),
    ],
)
def test_masks_refuse_in_a_sentence_and_write_nothing(
    second: Any, arguments: str, says: str, script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mask("a", np.uint16([[0, 1]]))
    write_mask("b", second)
    for folder in ("empty", "twins", "broken", "empty_masks"):
        Path(folder).mkdir()
    Path("empty", "Thumbs.db").write_bytes(b"")
    Path("twins", "a.jpg").write_bytes(b"")
    Path("twins", "a.PNG").write_bytes(b"")
    Path("broken", "a.png").write_bytes(b"")
    for name in ("a", "b"):
        Image.fromarray(np.zeros((1, 2), np.uint16)).save(Path("empty_masks", f"{name}.png"))
    assert script("masks.py", *arguments.split()) == 3
    told = capsys.readouterr()
    assert told.err.startswith(says) and told.err.count("\n") == 1 and not told.out
    assert not list(Path().rglob("*.json"))


def test_masks_leave_an_earlier_file_alone_and_no_half_of_one(
    script: Script, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mask("a", np.uint16([[0, 1]]))
    Path("all.json").write_text("mine")
    assert script("masks.py", "photos", "masks", "all.json", "cell") == 3
    assert capsys.readouterr().err == "all.json exists already: remove it or name another file\n"
    assert Path("all.json").read_text() == "mine"

    def write_half(path: Path, text: str, **_: Any) -> None:
        path.write_bytes(text.encode()[:10])
        raise OSError("the disk is full")

    monkeypatch.setattr(Path, "write_text", write_half)
    assert script("masks.py", "photos", "masks", "other.json", "cell") == 3
    assert capsys.readouterr().err == "other.json cannot be written: the disk is full\n"
    assert not Path("other.json").exists()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("masks.py", ""), ("masks.py", "photos masks all.json"), ("labelme.py", ""), ("labelme.py", "photos coco more")],
)
def test_a_script_says_its_usage(
    name: str, arguments: str, script: Script, labelme: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script(name, *arguments.split()) == 2
    assert f"`python {name} " in capsys.readouterr().err.splitlines()[0]


class Dataset:
    """What labelme.py uses of supervision's DetectionDataset, which the tests do not install."""

    def __init__(self, image_paths: list[str], shapes: list[int]) -> None:
        self.image_paths, self.shapes = image_paths, shapes
        self.classes = ["thing"] if sum(shapes) else []
        self.annotations = {path: Instances(count) for path, count in zip(image_paths, shapes, strict=True)}

    @classmethod
    def from_labelme(cls, images: str, annotations: str, *, force_masks: bool) -> "Dataset":
        assert images == annotations and force_masks
        found = [json.loads(path.read_text()) for path in sorted(Path(annotations).glob("*.json"))]
        if not all(found):
            raise ValueError("A LabelMe annotation file is missing the required 'imagePath' field")
        return cls([f"{images}/{one['imagePath']}" for one in found], [len(one["shapes"]) for one in found])

    def __len__(self) -> int:
        return len(self.image_paths)

    def split(self, ratio: float, *, random_state: int) -> tuple["Dataset", "Dataset"]:
        assert random_state == 0
        cut = int(len(self) * ratio)
        first, second = (slice(cut), slice(cut, None))
        return (
            Dataset(self.image_paths[first], self.shapes[first]),
            Dataset(self.image_paths[second], self.shapes[second]),
        )

    def as_coco(self, images: str, annotations: str) -> None:
        Path(images).mkdir(parents=True)
        Path(annotations).parent.mkdir(parents=True, exist_ok=True)
        Path(annotations).write_text(json.dumps(self.image_paths))


class Instances:
    def __init__(self, count: int) -> None:
        self.count, self.data = count, dict[str, Any]()

    def __len__(self) -> int:
        return self.count


@pytest.fixture
def labelme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", SimpleNamespace(DetectionDataset=Dataset))


def write_labelme(folder: str, *shapes: int) -> None:
    """Photos and labelme files with that many shapes each."""
    Path(folder).mkdir()
    for number, count in enumerate(shapes):
        Path(folder, f"{number}.jpg").write_bytes(b"")
        content = {"imagePath": f"{number}.jpg", "shapes": [{}] * count}
        Path(folder, f"{number}.json").write_text(json.dumps(content))


@pytest.mark.usefixtures("labelme")
def test_labelme_files_are_counted_and_a_second_run_is_refused(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    write_labelme("drawn", 2, 2, 2, 2, 3)
    assert script("labelme.py", "drawn", "coco") == 0
    assert capsys.readouterr().out.splitlines() == [
        "coco/annotations/instances_train2017.json: 4 photos, 8 instances, 1 classes",
        "coco/annotations/instances_val2017.json: 1 photos, 3 instances, 1 classes",
    ]
    for kept in ("train2017", "val2017", "annotations/instances_train2017.json", "annotations/instances_val2017.json"):
        root = Path(f"root_{kept.replace('/', '_')}")
        (root / kept).mkdir(parents=True)
        assert script("labelme.py", "drawn", str(root)) == 3
        assert capsys.readouterr().err == f"{root}/{kept} exists already: remove it or name another data root\n"


@pytest.mark.usefixtures("labelme")
@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere", "nowhere is not a folder"),
        ("photos", "photos holds 0 labelme files: "),
        ("one", "one holds 1 labelme files: "),
        ("shapeless", "the labelme files in shapeless hold no polygon and no rectangle"),
        ("photoless", "photoless/0.jpg is missing, which a labelme file names; 2 photos are missing in all"),
        ("foreign", "the labelme files in foreign cannot be read: A LabelMe annotation file is missing "),
    ],
)
def test_labelme_files_are_refused_in_a_sentence(
    source: str, says: str, script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    write_labelme("photos", 1, 1)
    write_labelme("one", 1)
    write_labelme("shapeless", 0, 0)
    write_labelme("photoless", 1, 1)
    write_labelme("foreign", 1, 1)
    for gone in [*Path("photos").glob("*.json"), *Path("photoless").glob("*.jpg")]:
        gone.unlink()
    Path("foreign", "0.json").write_text("{}")
    assert script("labelme.py", source, "coco") == 3
    told = capsys.readouterr()
    assert told.err.startswith(says) and told.err.count("\n") == 1 and not told.out
    assert not Path("coco").exists()
