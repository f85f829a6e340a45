"""Where recipes live: inside the installed package, or at the top of a checkout."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from bcnet_core.errors import BCNetError, usage_error

_PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = _PACKAGE / "recipes"
"""The wheel's copy."""
CHECKOUT = _PACKAGE.parent / "recipes"
"""The originals, beside the package in a checkout or an editable install."""


def list_recipes() -> list[Path]:
    """The recipe files of this installation, sorted by name."""
    folder = SHIPPED if SHIPPED.is_dir() else CHECKOUT
    return sorted(folder.glob("*.yaml"))


def find_recipe(name_or_path: str) -> Path:
    """Find a recipe.

    Args:
        name_or_path: the name of a recipe of this installation (`tiny`), or a yaml file of your own: whatever
            ends in .yaml or .yml, or names a folder.

    Returns:
        The path of a file that exists.

    Raises:
        BCNetError: if there is none (usage); the hints name the nearest recipes and all of them.
    """
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"} and len(path.parts) < 2:
        return find_shipped(name_or_path)
    if path.is_dir():
        raise usage_error(f"`{path}` is a folder, not a recipe", _all_recipes())
    if not path.exists():
        raise _unknown(f"there is no recipe file `{path}`", path.stem)
    return path


def find_shipped(name: str) -> Path:
    """Find a recipe of this installation by its name.

    Raises:
        BCNetError: if there is none of that name (usage).
    """
    for path in list_recipes():
        if path.stem == name:
            return path
    raise _unknown(f"unknown recipe `{name}`", name)


def read_header(path: Path) -> list[str]:
    """The comment at the top of a recipe, line by line, without the comment signs."""
    header: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        header.append(line.removeprefix("#").removeprefix(" ").rstrip())
    return header


def _unknown(message: str, name: str) -> BCNetError:
    nearest = get_close_matches(name, [path.stem for path in list_recipes()])
    hints = [f"did you mean: {' · '.join(nearest)}"] if nearest else []
    return usage_error(message, *hints, _all_recipes(), "your own:     a path that ends in .yaml")


def _all_recipes() -> str:
    return f"all recipes:  {' · '.join(path.stem for path in list_recipes())}"
