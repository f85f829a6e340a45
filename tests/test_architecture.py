"""Rules of the code base, checked on its source: imports, lengths and names.

Every rule is also tested with a source that breaks it, so that no rule passes because it checks nothing.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeGuard

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = (
    "errors", "reporting", "maps", "files", "masks", "structures", "distributed",
    "config", "annotations", "importers", "synth", "data", "model", "weights", "engine", "evaluation", "visualization",
    "integrations",
)  # fmt: skip
"""In the order of data flow: a room imports itself and the rooms before it."""
PACKAGES = {"bcnet_core", "bcnet_cli", "benchmarks"}
COMPOSITION = {PurePosixPath("bcnet_core/__init__.py"), PurePosixPath("bcnet_core/backends.py")}
FRONT_DOOR = {"bcnet_core.__version__", "bcnet_core.BCNetError", "bcnet_core.ExitCode"}
"""Names that a room may import from `bcnet_core` itself; `load_detector` would reach every room at once."""
TORCH_FREE = ("files", "annotations", "importers", "config", "synth")
VAGUE_NAMES = {"utils", "util", "misc", "common", "helpers", "helper"}
MAX_MODULE_LINES, MAX_FUNCTION_LINES = 300, 80
NOT_OURS = {
    ".git", ".venv", ".venv-oldest", ".venv-newest", "out", "runs",
    "__pycache__", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache",
}  # fmt: skip
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:" + "|".join(("wo" + "rk", "ro" + "ot")) + ")/")


class Import(NamedTuple):
    """One imported name, absolute and dotted; `from a import b` is `a.b`."""

    name: str
    line: int
    for_types: bool


def find_imports(path: PurePosixPath, tree: ast.AST, *, for_types: bool = False) -> Iterator[Import]:
    """Yield every import of a module, at any depth."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for inner in node.body:
                yield from find_imports(path, ast.Module([inner], []), for_types=True)
            for inner in node.orelse:
                yield from find_imports(path, ast.Module([inner], []), for_types=for_types)
            continue
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, for_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = path.parent.parts[: len(path.parent.parts) - node.level + 1] if node.level else ()
            module = ".".join((*parent, *((node.module,) if node.module else ())))
            yield from (Import(f"{module}.{alias.name}", node.lineno, for_types) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            for argument in node.args[:1]:
                yield Import(str(ast.literal_eval(argument)), node.lineno, for_types)
        yield from find_imports(path, node, for_types=for_types)


def room_of(dotted: str) -> str | None:
    """Return the room of an imported name; None outside the core and for names of `bcnet_core` itself."""
    package, _, rest = dotted.partition(".")
    room = rest.partition(".")[0]
    return room if package == "bcnet_core" and room in {*ROOMS, "backends"} else None


def rule_broken_by(path: PurePosixPath, found: Import) -> str | None:
    """Return the rule that an import breaks, if any."""
    package, in_core = found.name.partition(".")[0], path.parts[0] == "bcnet_core"
    here = path.with_suffix("").parts[1] if in_core else ""
    there = room_of(found.name)
    if in_core and package == "bcnet_cli":
        return "the core does not depend on the command line"
    if found.for_types:
        return None
    order = (*ROOMS, "backends")
    may_see = order[: order.index(here) + 1] if here in ROOMS else ()
    rules = {
        "the core does not depend on the command line": in_core and package in {"typer", "rich"},
        "the packages know no benchmarks": package == "benchmarks" and path.parts[0] != "benchmarks",
        "detectron2 is imported by integrations only": package == "detectron2"
        and here != "integrations"
        and path.parts[0] != "benchmarks",
        "integrations are imported by backends only": there == "integrations"
        and here not in {"integrations", "backends"},
        "the core does not import from its own front door": in_core
        and path not in COMPOSITION
        and package == "bcnet_core"
        and there is None
        and found.name not in FRONT_DOOR,
        "this room imports no torch": here in TORCH_FREE and package in {"torch", "torchvision"},
        "imports point up the list of rooms only": in_core
        and path not in COMPOSITION
        and there is not None
        and there not in may_see,
    }
    return next((rule for rule, is_broken in rules.items() if is_broken), None)


def violations(path: PurePosixPath, text: str) -> list[str]:
    """List every violation in a module of the two packages."""
    tree = ast.parse(text)
    broken = [
        f"{path}:{found.line}: {rule} ({found.name})"
        for found in find_imports(path, tree)
        if (rule := rule_broken_by(path, found))
    ]
    if path.parts[0] == "bcnet_core" and path not in COMPOSITION and path.with_suffix("").parts[1] not in ROOMS:
        broken.append(f"{path}: is not in a known room")
    if len(text.splitlines()) > MAX_MODULE_LINES:
        broken.append(f"{path}: is longer than {MAX_MODULE_LINES} lines")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                broken.append(f"{path}:{node.lineno}: {node.name} is {length} lines long")
        elif path.parts[0] == "bcnet_core" and is_print(node):
            broken.append(f"{path}:{node.lineno}: the core does not print")
    return broken


def is_print(node: ast.AST) -> TypeGuard[ast.Call]:
    """Return whether a node is a call of print."""
    return isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "builtins.print"}


def has_vague_name(path: PurePosixPath) -> bool:
    """Return whether the name of a file or one of its folders says nothing about its content."""
    return any(PurePosixPath(part).stem.strip("_") in VAGUE_NAMES for part in path.parts)


def project_files() -> list[PurePosixPath]:
    """List the files of the project: those git has or would add; in an unpacked source archive, all of them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0:
        files = [PurePosixPath(name) for name in listed.stdout.split("\0") if name]
    else:
        found = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        files = [PurePosixPath(path) for path in found if NOT_OURS.isdisjoint(path.parts)]
    return [path for path in files if (ROOT / path).is_file()]


def sources() -> list[PurePosixPath]:
    return [path for path in project_files() if path.suffix == ".py" and path.parts[0] in PACKAGES]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )


# --- the project follows the rules


def test_there_are_sources_to_check() -> None:
    rooms = {path.parts[1] for path in sources() if len(path.parts) > 2}
    assert {"config", "annotations", "model", "commands"} <= rooms
    assert len(sources()) > 20


def test_every_module_follows_the_rules() -> None:
    broken = [rule for path in sources() for rule in violations(path, (ROOT / path).read_text(encoding="utf-8"))]
    assert not broken, "\n".join(broken)


def test_no_name_is_vague() -> None:
    assert not [path for path in project_files() if has_vague_name(path)]


def test_no_file_contains_a_path_of_the_development_machine() -> None:
    found = [
        str(path)
        for path in project_files()
        if MACHINE_PATHS.search((ROOT / path).read_bytes().decode("utf-8", errors="ignore"))
    ]
    assert not found


@pytest.mark.parametrize("room", TORCH_FREE)
def test_importing_a_torch_free_room_loads_no_torch(room: str) -> None:
    names = [
        ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        for path in sources()
        if path.parts[:2] == ("bcnet_core", room)
    ]
    assert names
    result = run_python(f"import {', '.join(names)}, sys; sys.exit('torch' in sys.modules)")
    assert result.returncode == 0, result.stderr or f"importing {room} loads torch"


def test_help_imports_nothing_heavy() -> None:
    """`bcnet --help` takes 0.2 s because it imports typer, rich and the command line only."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: sys.stderr.write(' '.join({name.partition('.')[0] for name in sys.modules})))\n"
        "sys.argv = ['bcnet', '--help']\n"
        "from bcnet_cli.__main__ import main\n"
        "main()"
    )
    result = run_python(code)
    assert "annotate" in result.stdout
    loaded = set(result.stderr.split())
    assert {"typer", "rich", "bcnet_core"} <= loaded
    assert not loaded & {
        "torch",
        "torchvision",
        "numpy",
        "cv2",
        "PIL",
        "pydantic",
        "yaml",
        "pycocotools",
        "shapely",
        "skimage",
    }


# --- each rule can be broken

BROKEN = {
    "up": ("bcnet_core/data/a.py", "from bcnet_core.model.fcos import FCOS", "up the list"),
    "up, lazily": ("bcnet_core/model/a.py", "def f():\n    import bcnet_core.engine.loop", "up the list"),
    "up, as a module": ("bcnet_core/errors.py", "from bcnet_core import masks", "up the list"),
    "up, relative": ("bcnet_core/data/a.py", "from ..engine import loop", "up the list"),
    "up, by name": ("bcnet_core/data/a.py", "importlib.import_module('bcnet_core.engine')", "up the list"),
    "up, in an else": (
        "bcnet_core/data/a.py",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import bcnet_core.engine",
        "up the list",
    ),
    "backends from a room": ("bcnet_core/engine/a.py", "from bcnet_core import backends", "up the list"),
    "the front door": ("bcnet_core/data/a.py", "from bcnet_core import load_detector", "front door"),
    "a bare import": ("bcnet_core/data/a.py", "import bcnet_core", "front door"),
    "a star": ("bcnet_core/data/a.py", "from bcnet_core import *", "front door"),
    "cli": ("bcnet_core/data/a.py", "from bcnet_cli import console", "command line"),
    "cli for types": (
        "bcnet_core/data/a.py",
        "if TYPE_CHECKING:\n    import bcnet_cli.app",
        "command line",
    ),
    "typer": ("bcnet_core/backends.py", "import typer", "command line"),
    "rich": (
        "bcnet_core/data/a.py",
        "try:\n    from rich import box\nexcept Exception: ...",
        "command line",
    ),
    "torch": ("bcnet_core/config/a.py", "def f():\n    import torch.nn", "imports no torch"),
    "torchvision": ("bcnet_core/synth/a.py", "from torchvision import ops", "imports no torch"),
    "integrations": ("bcnet_cli/a.py", "import bcnet_core.integrations.detectron2", "by backends only"),
    "detectron2": ("bcnet_core/model/a.py", "from detectron2.layers import nms", "by integrations only"),
    "benchmarks": ("bcnet_cli/a.py", "from benchmarks.speed import model", "know no benchmarks"),
    "a new room": ("bcnet_core/attic/a.py", "", "not in a known room"),
    "a new top-level module": ("bcnet_core/stuff.py", "", "not in a known room"),
    "long module": ("bcnet_cli/a.py", "\n" * (MAX_MODULE_LINES + 1), "longer than"),
    "long function": (
        "bcnet_cli/a.py",
        "class A:\n  def f():\n" + "    1\n" * MAX_FUNCTION_LINES,
        "lines long",
    ),
    "print": ("bcnet_core/data/a.py", "def f():\n    print('hello')", "does not print"),
}


@pytest.mark.parametrize(("path", "text", "rule"), BROKEN.values(), ids=BROKEN)
def test_a_violation_is_detected(path: str, text: str, rule: str) -> None:
    (found,) = violations(PurePosixPath(path), text)
    assert rule in found


CORRECT = {
    "down": ("bcnet_core/engine/a.py", "from bcnet_core.model import fcos\nfrom bcnet_core import masks"),
    "itself": ("bcnet_core/data/a.py", "from bcnet_core.masks.crops import crop\nfrom . import loaders"),
    "for types": (
        "bcnet_core/config/a.py",
        "if typing.TYPE_CHECKING:\n    import torch\n    import bcnet_core.engine",
    ),
    "composition": ("bcnet_core/backends.py", "import bcnet_core.integrations.detectron2.head"),
    "names of the package": ("bcnet_core/engine/a.py", "from bcnet_core import __version__"),
    "command line": ("bcnet_cli/a.py", "import rich, typer, torch, bcnet_core.engine\nprint(1)"),
    "benchmarks": ("benchmarks/speed/a.py", "import bcnet_cli.console, bcnet_core.engine, benchmarks.speed.model"),
    "a peer": ("benchmarks/crowds/a.py", "from detectron2.modeling.roi_heads import StandardROIHeads"),
    "longest": ("bcnet_cli/a.py", "def f():\n" + "    1\n" * (MAX_FUNCTION_LINES - 1)),
}


@pytest.mark.parametrize(("path", "text"), CORRECT.values(), ids=CORRECT)
def test_correct_code_is_not_reported(path: str, text: str) -> None:
    assert violations(PurePosixPath(path), text) == []


def test_vague_names_and_machine_paths_are_detected() -> None:
    for name in ("bcnet_core/utils.py", "tests/helpers/a.py", "bcnet_core/data/_misc.py", "docs/common.md"):
        assert has_vague_name(PurePosixPath(name))
    assert not has_vague_name(PurePosixPath("bcnet_core/files/images.py"))
    for folder in ("wo" + "rk", "ro" + "ot"):
        assert MACHINE_PATHS.search(f"see /{folder}/x")
        assert MACHINE_PATHS.search(f'"/{folder}/"')
        assert not MACHINE_PATHS.search(f"the-net/{folder}/x and {folder}/")
