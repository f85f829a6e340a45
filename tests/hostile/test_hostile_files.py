"""Every hostile file of the table ends as the table says, in bounded time and memory, and touches nothing else."""

import io
import json
import os
import re
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from PIL import Image
from rich.table import Table

from bcnet_cli.console import PlainConsole
from bcnet_cli.reporter import ConsoleReporter
from tests.conftest import REPO, Bcnet
from tests.hostile.rows import CATEGORY, COMMANDS, CONTROL, RESULT, RLE, ROWS, Row, coco

SECONDS = 20
"""Time limit of a command; on an idle machine the slowest takes 4."""
MEGABYTES = 400
"""Limit for the growth of peak memory; the largest measured is 150."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a small detector with one class."""
    from bcnet_core.config.load import load_recipe
    from bcnet_core.model.detectors import build_detector
    from bcnet_core.weights.checkpoint import Checkpoint, save_checkpoint

    recipe = load_recipe("shapes", ["model.channels=32", "model.tower_convs=1", "data.min_size=64", "data.max_size=64"])
    path = tmp_path_factory.mktemp("model") / "model.pt"
    weights = build_detector(recipe, [CATEGORY]).state_dict()
    save_checkpoint(path, Checkpoint(1, recipe.model_dump(mode="json"), [CATEGORY], weights, {}))
    return path


@pytest.fixture
def room(tmp_path: Path, model: Path) -> Path:
    """Return a folder with the other inputs of the commands."""
    folder = tmp_path / "room"
    (folder / "images").mkdir(parents=True)
    (folder / "out").mkdir()
    Image.new("RGB", (40, 30), (90, 20, 30)).save(folder / "images/a.png")
    (folder / "good.json").write_text(json.dumps(coco()))
    (folder / "results_good.json").write_text(json.dumps([{**RESULT, "segmentation": RLE}]))
    (folder / "model.pt").symlink_to(model)
    return folder


@contextmanager
def bounded() -> Iterator[None]:
    """Limit time and memory of the block: asserted at the end, and enforced against exhausting the machine."""

    def too_long(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"it takes more than {2 * SECONDS} s")

    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
    limits = resource.getrlimit(resource.RLIMIT_AS)
    if pages is not None:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 6 * 2**30, limits[1]))
    handler = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, 2 * SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, limits)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
    taken = time.monotonic() - start
    assert grown < MEGABYTES, f"it took {grown:.0f} MB"
    assert taken < SECONDS, f"it took {taken:.1f} s"


def everything(folder: Path) -> dict[str, tuple[int, int] | None]:
    """Return size and time of every file in a folder, except for outputs."""
    found = {}
    for path in folder.rglob("*"):
        if folder / "room/out" not in (path, *path.parents):
            status = path.lstat()
            found[str(path)] = (status.st_size, status.st_mtime_ns) if path.is_file() else None
    return found


@pytest.mark.parametrize(
    ("row", "command"), [pytest.param(row, one, id=f"{row.what}: {one}") for row in ROWS for one in row.given]
)
def test_a_hostile_file(row: Row, command: str, room: Path, bcnet: Bcnet) -> None:
    file = row.make(room)
    before = everything(room.parent)
    with bounded():
        done = bcnet(*COMMANDS[command](file, room), cwd=room)
    assert done.returncode == row.code, done.stderr
    assert row.says in done.stderr
    assert "Traceback" not in done.stderr
    if row.code:
        assert done.stderr.splitlines()[-1] != "" and "error: " in done.stderr
        assert list((room / "out").rglob("*")) == [], "nothing is written"
    for line in (done.stdout + done.stderr).splitlines():
        assert line.isprintable(), "a file cannot control the terminal"
        assert len(line) < 4000
    assert everything(room.parent) == before, "nothing else is touched"
    for page in (room / "out").rglob("*"):
        if page.suffix in {".html", ".svg"}:
            assert b"<script>alert" not in page.read_bytes()
            assert b'" onerror="' not in page.read_bytes()


def test_the_trap_pickle_runs_code_if_unpickled(room: Path) -> None:
    """The trap used in the table works."""
    import pickle

    from tests.hostile.rows import Trap

    here = Path.cwd()
    os.chdir(room)
    try:
        pickle.loads(pickle.dumps(Trap()))
        assert (room / "trap-was-sprung").is_dir()
    finally:
        os.chdir(here)


def test_ordinary_compression_ratios_are_accepted(tmp_path: Path) -> None:
    import gzip

    from bcnet_core.files import json_files

    usual = json.dumps(coco(more=list(range(1_000_000)))).encode()
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(usual) + gzip.compress(b" " * 1_000_000))
    assert json_files.read_whole(tmp_path / "x.json.gz") == usual + b" " * 1_000_000


def test_small_files_may_have_any_ratio_but_the_total_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip

    from bcnet_core.errors import BCNetError
    from bcnet_core.files import json_files

    (tmp_path / "x.json.gz").write_bytes(gzip.compress(b" " * 1_000_000))
    assert json_files.read_whole(tmp_path / "x.json.gz") == b" " * 1_000_000
    monkeypatch.setattr(json_files, "MOST_BYTES", 999_999)
    with pytest.raises(BCNetError, match="unpacks to more, more than"):
        json_files.read_whole(tmp_path / "x.json.gz")


def test_impossible_file_names_are_reported_as_missing(tmp_path: Path) -> None:
    from bcnet_core.files.images import missing_images

    (tmp_path / "a.png").touch()
    assert missing_images(tmp_path, ["a.png", "a" * 5000, "a\0.png"]) == ["a" * 5000, "a\0.png"]


def test_names_cannot_control_the_terminal() -> None:
    table = Table(title=f"title {CONTROL}")
    table.add_column(f"column {CONTROL}")
    table.add_row(f"[bold]name {CONTROL} :car:")
    for width in (40, 200):
        file = io.StringIO()
        console = PlainConsole(file=file, force_terminal=True, width=width, highlight=False, markup=False, emoji=False)
        console.print(table)
        console.print(f"text {CONTROL} é 猫 👩‍🚀", style="red")
        with console.status(f"status {CONTROL}"):
            pass
        text = file.getvalue()
        assert "\x1b[31m" in text and "é 猫 👩‍🚀" in text, "our own colors are kept, and so are all letters"
        ours = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
        assert "owned" in ours and "\x1b[2J" not in text
        assert not set(ours) & set(CONTROL.replace("owned", "").replace("[2J", "").replace("]0;", "")) - {"\r"}
        text.encode()


def test_names_in_progress_bars_cannot_control_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from bcnet_cli import console

    file = io.StringIO()
    monkeypatch.setattr(console, "err", PlainConsole(file=file, force_terminal=True, width=100, markup=False))
    with ConsoleReporter().progress(f"scanning {CONTROL}", 2) as progress:
        progress.advance(note=f"{CONTROL}\nerror: all is lost", values={"loss": CONTROL})
    assert "]0;owne" in file.getvalue() and "\x1b]0" not in file.getvalue() and "\x1b[2J" not in file.getvalue()
    assert "\nerror" not in file.getvalue()


def test_the_documentation_has_the_same_table() -> None:
    text = (REPO / "docs/hostile-files.md").read_text(encoding="utf-8")
    told = [line for line in text.splitlines() if line.startswith("| ") and line.count("|") == 5]
    assert told[1:] == [document_row(row) for row in ROWS]


def document_row(row: Row) -> str:
    given = ", ".join(f"`{command}`" for command in row.given)
    return f"| {row.what} | {given} | {row.code} | {row.says} |"
