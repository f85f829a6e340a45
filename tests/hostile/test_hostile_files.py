"""Every hostile file of the table ends in what the table says, in little time and memory, and touches nothing else."""

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
from tests.hostile.rows import CATEGORY, COMMANDS, OBEYED, RESULT, RLE, ROWS, Row, coco

SECONDS = 20
"""That a command may take; on a quiet machine the slowest takes 4."""
MEGABYTES = 400
"""By which the largest memory of this process may grow; the largest growth measured is 150."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a small detector of one class."""
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
    """A folder with what the commands need besides."""
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
    """Time and memory: asserted at the end, and held against whatever would take all of the machine."""

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
    """All that is in a folder, but for the outputs: size and time of each file."""
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
        assert line.isprintable(), "no terminal obeys what a file says"
        assert len(line) < 4000
    assert everything(room.parent) == before, "nothing else is touched"
    for page in (room / "out").rglob("*"):
        if page.suffix in {".html", ".svg"}:
            assert b"<script>alert" not in page.read_bytes()
            assert b'" onerror="' not in page.read_bytes()


def test_a_pickle_would_have_run(room: Path) -> None:
    """The trap of the table works, and a polygon, a tuple and a page of it are what they are said to be."""
    import pickle

    from tests.hostile.rows import Trap

    here = Path.cwd()
    os.chdir(room)
    try:
        pickle.loads(pickle.dumps(Trap()))
        assert (room / "trap-was-sprung").is_dir()
    finally:
        os.chdir(here)


def test_a_file_that_unpacks_to_what_is_usual_is_read(tmp_path: Path) -> None:
    import gzip

    from bcnet_core.files import inputs

    usual = json.dumps(coco(more=list(range(1_000_000)))).encode()
    (tmp_path / "x.json.gz").write_bytes(gzip.compress(usual) + gzip.compress(b" " * 1_000_000))
    assert inputs.read_whole(tmp_path / "x.json.gz") == usual + b" " * 1_000_000


def test_little_may_unpack_to_anything_and_nothing_to_more_than_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip

    from bcnet_core.errors import BCNetError
    from bcnet_core.files import inputs

    (tmp_path / "x.json.gz").write_bytes(gzip.compress(b" " * 1_000_000))
    assert inputs.read_whole(tmp_path / "x.json.gz") == b" " * 1_000_000
    monkeypatch.setattr(inputs, "MOST_BYTES", 999_999)
    with pytest.raises(BCNetError, match="unpacks to more, more than"):
        inputs.read_whole(tmp_path / "x.json.gz")


def test_a_name_that_no_file_can_have_is_missing(tmp_path: Path) -> None:
    from bcnet_core.files.images import missing_images

    (tmp_path / "a.png").touch()
    assert missing_images(tmp_path, ["a.png", "a" * 5000, "a\0.png"]) == ["a" * 5000, "a\0.png"]


def test_a_terminal_shows_names_and_obeys_none() -> None:
    table = Table(title=f"title {OBEYED}")
    table.add_column(f"column {OBEYED}")
    table.add_row(f"[bold]name {OBEYED} :car:")
    for width in (40, 200):
        file = io.StringIO()
        console = PlainConsole(file=file, force_terminal=True, width=width, highlight=False, markup=False, emoji=False)
        console.print(table)
        console.print(f"text {OBEYED} é 猫 👩‍🚀", style="red")
        with console.status(f"status {OBEYED}"):
            pass
        text = file.getvalue()
        assert "\x1b[31m" in text and "é 猫 👩‍🚀" in text, "our own colours are there, and letters of all kinds"
        ours = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
        assert "owned" in ours and "\x1b[2J" not in text
        assert not set(ours) & set(OBEYED.replace("owned", "").replace("[2J", "").replace("]0;", "")) - {"\r"}
        text.encode()


def test_progress_on_a_terminal_obeys_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from bcnet_cli import console

    file = io.StringIO()
    monkeypatch.setattr(console, "err", PlainConsole(file=file, force_terminal=True, width=100, markup=False))
    with ConsoleReporter().progress(f"scanning {OBEYED}", 2) as progress:
        progress.advance(note=f"{OBEYED}\nerror: all is lost", values={"loss": OBEYED})
    assert "]0;owne" in file.getvalue() and "\x1b]0" not in file.getvalue() and "\x1b[2J" not in file.getvalue()
    assert "\nerror" not in file.getvalue()


def test_the_document_holds_the_same_table() -> None:
    text = (REPO / "docs/hostile-files.md").read_text(encoding="utf-8")
    told = [line for line in text.splitlines() if line.startswith("| ") and line.count("|") == 5]
    assert told[1:] == [document_row(row) for row in ROWS]


def document_row(row: Row) -> str:
    given = ", ".join(f"`{command}`" for command in row.given)
    return f"| {row.what} | {given} | {row.code} | {row.says} |"
