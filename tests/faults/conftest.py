"""Commands that write, on tiny data, and the server that runs and breaks them."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest

from bcnet_core.engine.run_dir import LOCK_FILE
from bcnet_core.files.outputs import is_leftover
from bcnet_core.weights.checkpoint import read_checkpoint
from tests.conftest import REPO

DROP_FROM_BOUNDING_SET, OVERRIDE_PERMISSIONS = 24, 1


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        arguments: of bcnet; {out} is the folder it writes into, {json}, {images}, {model}, {video} what it reads.
        outputs: what is in {out} at its end.
        older: further arguments that make other outputs, for --overwrite to replace.
        kept: what an interruption leaves on purpose.
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
QUICK = ("annotate", "shapes", "viz")
"""Those of every test run: a fraction of a second each, and each way of writing."""


@dataclass
class End:
    """How a command ended."""

    code: int
    told: str
    events: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Whole:
    """An undisturbed run: its folder, what is in it, and its events."""

    folder: Path
    files: dict[str, str]
    events: list[str]

    @property
    def claimed(self) -> int:
        """The first event behind that which makes the first lock."""
        return next(number for number, event in enumerate(self.events) if event.endswith(".lock")) + 1

    @property
    def moments(self) -> list[int]:
        """The events around which something comes into its place, and the first and last ones."""
        renames = [number for number, event in enumerate(self.events) if event.startswith(("os.rename", "os.link"))]
        near = {number + step for number in renames for step in (0, 1)}
        return sorted({0, 1, len(self.events) - 1, *near} & set(range(len(self.events))))


@dataclass
class Server:
    """The process of `tests/server.py`; it runs one command after the other, or several at once."""

    process: subprocess.Popen[str]
    places: dict[str, str]
    logs: Path
    whole: dict[tuple[str, str], Whole] = field(default_factory=dict)
    started: int = 0

    def start(
        self, name: str, out: Path, more: str = "", *, fault: str = "none", at: int = 0, number: int = 0
    ) -> tuple[int, Path]:
        """Start a command that writes into a folder, with a fault."""
        self.started += 1
        log = self.logs / f"{self.started}.log"
        words = f"{COMMANDS[name].arguments} {more}".split()
        request = {"argv": [word.format(out=out, **self.places) for word in words], "watch": str(out),
                   "fault": [fault, at, number], "log": str(log)}  # fmt: skip
        return self._ask(request), log

    def wait(self, started: tuple[int, Path]) -> End:
        """Wait for the end of what was started."""
        pid, log = started
        code = self._ask({"pid": pid})
        events = Path(f"{log}.events")
        listed = events.read_text(encoding="utf-8").splitlines() if events.exists() else []
        return End(code, log.read_text(encoding="utf-8"), listed)

    def run(self, name: str, out: Path, more: str = "", *, fault: str = "none", at: int = 0, number: int = 0) -> End:
        """Start a command, and wait for its end."""
        return self.wait(self.start(name, out, more, fault=fault, at=at, number=number))

    def undisturbed(self, name: str, more: str = "") -> Whole:
        """What a command writes when nothing happens."""
        if (name, more) not in self.whole:
            out = self.logs / f"whole-{self.started}"
            out.mkdir()
            end = self.run(name, out, more)
            assert end.code == 0, end.told
            assert sorted(path.name for path in out.iterdir()) == sorted(COMMANDS[name].outputs)
            assert not left_overs(out)
            self.whole[name, more] = Whole(out, contents(out), end.events)
        return self.whole[name, more]

    def stopped(self, started: tuple[int, Path]) -> bool:
        """Wait until what was started stands still."""
        return bool(self._ask({"stopped": started[0]}))

    def _ask(self, request: dict[str, object]) -> int:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with its checksum, less what depends on where and when it was written."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if (
            path.is_file()
            and path.name != LOCK_FILE
            and not any(map(is_leftover, map(Path, path.relative_to(folder).parts)))
        ):
            data = b"" if path.name in {"env.json", "curves.png"} else path.read_bytes()
            data = re.sub(rb'"speed": \{.*?\}', b"", data) if path.name == "metrics.jsonl" else data
            if (
                path.parent.name == "checkpoints"
            ):  # what was read and is written again has the same tensors in other bytes
                tensors = read_checkpoint(path).model
                data = b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in tensors.items())
            found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


def left_overs(folder: Path) -> list[str]:
    """What a killed process left below a folder."""
    return [str(path.relative_to(folder)) for path in folder.rglob(".*")]


def _keep_permissions() -> None:
    """Let the permissions of files hold for root, too."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(DROP_FROM_BOUNDING_SET, OVERRIDE_PERMISSIONS, 0, 0, 0)


def _lonely_squares(folder: Path) -> None:
    """A COCO set of objects that touch nothing: what scenes can be pasted from."""
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
def server(scenes: Path, untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server; it ends with the tests of this folder."""
    from tests.visualization.test_video import make_video

    folder = tmp_path_factory.mktemp("faults")
    (folder / "dev/annotations").mkdir(parents=True)
    (folder / "dev/test2017").symlink_to(scenes / "val")
    _lonely_squares(folder / "squares")
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
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    process = subprocess.Popen(
        [sys.executable, REPO / "tests/server.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **threads, "PYTHONWARNINGS": "ignore"}, preexec_fn=_keep_permissions,  # noqa: PLW1509
    )  # fmt: skip
    yield Server(process, places, folder)
    process.communicate()
    assert process.returncode == 0
