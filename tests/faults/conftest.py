"""Commands that write, on tiny data, and ways to break them."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from bcnet_core.engine.run_dir import LOCK_FILE
from bcnet_core.files.outputs import is_leftover
from bcnet_core.weights.checkpoint import read_checkpoint
from tests.conftest import REPO, run_inside
from tests.faults.breaking import Action, Watcher


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        arguments: arguments of bcnet; {out} is its output folder, the other names are inputs.
        outputs: content of {out} when it is done.
        older: further arguments for a different output, which `--overwrite` replaces.
        kept: outputs that an interruption leaves on purpose.
    """

    arguments: str
    outputs: tuple[str, ...]
    older: str = ""
    kept: tuple[str, ...] = ()


SMALL = "model.channels=32 model.tower_convs=1 data.min_size=64 data.max_size=64 data.workers=0 solver.batch_size=2"
COMMANDS = {
    "annotate": Command("annotate {json} -o {out}/x.json --report {out}/r.json --workers 1", ("x.json", "r.json"),
                        older="--min-area 200"),
    "annotate-rle": Command("annotate {json} -o {out}/x.json.gz --format rle --workers 1", ("x.json.gz",)),
    "check": Command("annotate --check {json} --report {out}/r.json --workers 1", ("r.json",)),
    "data-import": Command("data import {json} --images {images} -o {out}/r --workers 1", ("r",), older="--val 0.5"),
    "split-occ": Command("split-occ {json} -o {out}/o.json --plot {out}/o.png", ("o.json", "o.manifest.json", "o.png")),
    "shapes": Command("synth shapes -o {out}/s --images 1 --val-images 1 --size 64 --workers 1", ("s",),
                      older="--seed 1"),
    "paste": Command(
        "synth paste {squares}/squares.json --images {squares}/images -o {out}/p --scenes 1 --val-scenes 1 "
        "--size 96x96 --min-area 64 --workers 1",
        ("p",),
    ),
    "train": Command(f"train shapes --data-root {{root}} --run-dir {{out}}/run --device cpu {SMALL} solver.steps=2 "
                     "solver.log_every=1 solver.checkpoint_every=1 solver.keep_checkpoints=1", ("run",), kept=("run",)),
    "eval": Command("eval {model} -o {out}/e --device cpu --occ", ("e",), kept=("e",)),
    "eval-results": Command("eval --results {results} --gt {json} -o {out}/e", ("e",), kept=("e",)),
    "test-dev": Command("eval {model} -o {out}/e --device cpu --test-dev --data-root {dev}", ("e",), kept=("e",)),
    "predict": Command("predict {model} {images} -o {out}/p.json --layers --device cpu", ("p.json", "p_images.json"),
                       kept=("p_predictions.jsonl",)),
    "viz": Command("viz {json} -o {out}/v --limit 2 --rois 1", ("v",), older="--layer occluder"),
    "viz-video": Command("viz {model} --video {video} -o {out}/v.mp4 --device cpu", ("v.mp4",)),
    "import": Command("weights import {model} -o {out}/w.pt --drop-classes", ("w.pt",)),
    "export": Command("weights export {model} -o {out}/w.torchscript --size 64x64", ("w.torchscript",)),
    "recipes-copy": Command("recipes copy tiny -o {out}/mine.yaml", ("mine.yaml",)),
}  # fmt: skip
if find_spec("detectron2"):
    COMMANDS["convert"] = Command("weights convert {model} --to detectron2 -o {out}/w.pth", ("w.pth", "w.yaml"))
QUICK = ("annotate", "data-import", "shapes", "viz")
"""Commands tested by default: a fraction of a second each, covering every way of writing."""
ALL = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in COMMANDS]


@dataclass
class End:
    """The end of a command: exit code, everything it printed, and the changes it made on disk."""

    code: int
    output: str
    events: list[str]


@dataclass(frozen=True)
class Whole:
    """An undisturbed run: its folder, checksums of its files, and its events."""

    folder: Path
    files: dict[str, str]
    events: list[str]

    @property
    def moments(self) -> list[int]:
        """Events around which an output takes its place, plus the first and last ones."""
        renames = [number for number, event in enumerate(self.events) if event.startswith(("os.rename", "os.link"))]
        near = {number + step for number in renames for step in (0, 1)}
        return sorted({0, 1, len(self.events) - 1, *near} & set(range(len(self.events))))


@dataclass
class Bench:
    """Runs commands in this process, undisturbed or with a fault, or in one that is killed."""

    places: dict[str, str]
    folder: Path
    watcher: Watcher
    whole: dict[tuple[str, str], Whole] = field(default_factory=dict)

    def arguments(self, name: str, out: Path, more: str = "") -> list[str]:
        """Return the arguments of a command that writes into a folder."""
        words = f"{COMMANDS[name].arguments} {more}".split()
        return [word.format(out=out, **self.places) for word in words]

    def run(self, name: str, out: Path, more: str = "", *, action: Action = lambda number, event: None) -> End:
        """Run a command in this process; `action` is called at every change below `out`."""
        with self.watcher.watching(out, action) as events:
            done = run_inside(self.arguments(name, out, more), None)
        return End(done.returncode, done.stdout + done.stderr, events)

    def run_killed(self, name: str, out: Path, more: str = "", *, moment: int) -> int:
        """Run a command in a process that is killed at an event; returns its exit code."""
        program = [sys.executable, REPO / "tests/faults/breaking.py", str(out), str(moment)]
        return subprocess.run([*program, *self.arguments(name, out, more)], capture_output=True, check=False).returncode

    def start(self, name: str, out: Path, more: str = "") -> subprocess.Popen[str]:
        """Start a command in a process of its own."""
        program = [sys.executable, "-m", "bcnet_cli", *self.arguments(name, out, more)]
        return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=REPO)

    def undisturbed(self, name: str, more: str = "") -> Whole:
        """Return what a command writes without any fault."""
        if (name, more) not in self.whole:
            out = self.folder / f"whole-{len(self.whole)}"
            out.mkdir()
            end = self.run(name, out, more)
            assert end.code == 0, end.output
            assert sorted(path.name for path in out.iterdir()) == sorted(COMMANDS[name].outputs)
            assert not leftovers(out)
            self.whole[name, more] = Whole(out, contents(out), end.events)
        return self.whole[name, more]


def contents(folder: Path) -> dict[str, str]:
    """Return the checksum of every file below a folder, ignoring what depends on place and time."""
    found = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if not path.is_file() or path.name == LOCK_FILE or any(map(is_leftover, map(Path, inside.parts))):
            continue
        data = b"" if path.name in {"env.json", "curves.png"} else path.read_bytes()
        data = re.sub(rb'"speed": \{.*?\}', b"", data) if path.name == "metrics.jsonl" else data
        if path.parent.name == "checkpoints":  # tensors that were read and written again have other bytes
            model = read_checkpoint(path).model
            data = b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in model.items())
        if path.suffix == ".torchscript":  # its code differs from one trace to the next, its tensors do not
            with zipfile.ZipFile(path) as archive:
                assert archive.testzip() is None
                tensors = [(part.file_size, part.CRC) for part in archive.infolist() if "/data/" in part.filename]
            data = repr(tensors).encode()
        found[str(inside)] = hashlib.sha256(data).hexdigest()
    return found


def leftovers(folder: Path) -> list[str]:
    """Return the hidden files that a killed process left below a folder."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*")]


def assert_complete_or_absent(name: str, out: Path, *states: Whole) -> None:
    """Check that every output equals that of an undisturbed run; of kept outputs, every file that such a run has."""
    found = contents(out)
    for output in {Path(file).parts[0] for file in found} - {*COMMANDS[name].kept}:
        own = {file: checksum for file, checksum in found.items() if Path(file).parts[0] == output}
        assert any(own.items() <= state.files.items() for state in states), (output, leftovers(out))
        assert any({file for file in state.files if Path(file).parts[0] == output} == own.keys() for state in states)
    for file in {file for file in found if Path(file).parts[0] in COMMANDS[name].kept}:
        if file.endswith(".pt"):
            read_checkpoint(out / file)
        elif not file.endswith("metrics.jsonl") and not file.endswith("_predictions.jsonl"):
            assert any(state.files.get(file) == found[file] for state in states), file


def _separate_squares(folder: Path) -> None:
    """Write a COCO set of objects that touch nothing, from which scenes can be composed."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, 13):
        x, side = 20 + 4 * number, 30 + number
        picture = np.full((128, 128, 3), 40 + 10 * number, np.uint8)
        picture[30 : 30 + side, x : x + side] = 255 - 10 * number
        cv2.imwrite(str(folder / f"images/{number}.png"), picture)
        images.append({"id": number, "file_name": f"{number}.png", "width": 128, "height": 128})
        outline = [x, 30, x + side, 30, x + side, 30 + side, x, 30 + side]
        annotations.append({"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "segmentation": [outline],
                            "bbox": [x, 30, side, side], "area": side * side})  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (folder / "squares.json").write_text(json.dumps(content))


@pytest.fixture(scope="package")
def bench(scenes: Path, untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Inputs of all commands, and what breaks them."""
    from tests.visualization.test_video import make_video

    folder = tmp_path_factory.mktemp("faults")
    (folder / "dev/annotations").mkdir(parents=True)
    (folder / "dev/test2017").symlink_to(scenes / "val")
    _separate_squares(folder / "squares")
    truth = scenes / "annotations/instances_val.json"
    content = json.loads(truth.read_text())
    del content["annotations"]
    (folder / "dev/annotations/image_info_test-dev2017.json").write_text(json.dumps(content))
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [4, 4, 20, 20], "score": 0.5, "segmentation": [[4, 4, 24, 4, 24, 24]]}
    ]
    (folder / "results.json").write_text(json.dumps(found))
    places = {
        "json": str(truth), "images": str(scenes / "val"), "squares": str(folder / "squares"),
        "root": str(scenes), "model": str(untrained),
        "dev": str(folder / "dev"), "results": str(folder / "results.json"),
        "video": str(make_video(folder / "in.mp4", frames=2, size=(64, 48))),
    }  # fmt: skip
    return Bench(places, folder, Watcher())
