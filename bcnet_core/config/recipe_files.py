"""Recipe files: where they are found, and how their YAML is read."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from bcnet_core.errors import BCNetError, usage_error
from bcnet_core.files.json_files import check_regular_file

_PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = _PACKAGE / "recipes"
"""The wheel's copy."""
CHECKOUT = _PACKAGE.parent / "recipes"
"""The originals, beside the package in a checkout or an editable install."""
MAX_BYTES = 100_000
"""Largest recipe; an annotation file given by mistake would keep the YAML parser busy for hours."""
_START = "start from:   bcnet recipes list"


def list_recipes() -> list[Path]:
    """Return the recipe files of this installation, sorted by name."""
    folder = SHIPPED if SHIPPED.is_dir() else CHECKOUT
    return sorted(folder.glob("*.yaml"))


def find_recipe(name_or_path: str) -> Path:
    """Find a recipe of this installation (`tiny`) or a YAML file, which ends in .yaml or .yml or names a folder.

    An error names the nearest recipes and all of them.
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
    """Find a recipe of this installation by its name."""
    for path in list_recipes():
        if path.stem == name:
            return path
    raise _unknown(f"unknown recipe `{name}`", name)


def read_header(path: Path) -> list[str]:
    """Return the lines of the comment at the top of a recipe, without the comment signs."""
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


class TextLoader(yaml.BaseLoader):
    """YAML whose scalars stay text or null, for the schema to convert; it knows no tags, so it runs no code."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401  (PyYAML's)
        """Reject references: nested ones multiply without end."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(
                problem=f"it refers to `*{event.anchor}`; write the value instead", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        """Reject a key that is given twice: YAML would silently take the last one."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"it sets `{key.value}` twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


TextLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
TextLoader.add_constructor("tag:yaml.org,2002:null", lambda _, __: None)


def read_recipe_files(path: Path) -> list[tuple[Path, dict[Any, Any]]]:
    """Return path and content (without `base`) of the file that a recipe is based on, if any, and of the recipe itself.

    Its optional top-level `base` is the name of a recipe of this installation, or a YAML file relative to this one,
    and must not have a base itself.
    """
    content = _read(path)
    if "base" not in content:
        return [(path, content)]
    base = content.pop("base")
    if not isinstance(base, str) or not base:
        raise usage_error(f"`base` of `{path}` must be the name of a recipe or a yaml file, not `{base}`")
    base_path = find_recipe(str(path.parent / base) if base.endswith((".yaml", ".yml")) else base)
    base_content = _read(base_path)
    if "base" in base_content:
        raise usage_error(
            f"`{path}` is based on `{base_path}`, which has a `base` itself",
            "a recipe may have one base: copy the settings of the second one into the first",
        )
    return [(base_path, base_content), (path, content)]


def _read(path: Path) -> dict[Any, Any]:
    try:
        check_regular_file(path)
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise usage_error(f"`{path}` is too large for a recipe ({size / 1e3:,.0f} kB)", _START)
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=TextLoader)
    except BCNetError as error:
        raise usage_error(error.message, *error.hints) from None
    except UnicodeDecodeError as error:
        raise usage_error(f"`{path}` is not a text file", _START) from error
    except RecursionError:
        raise usage_error(f"`{path}` is nested too deeply for a recipe", _START) from None
    except yaml.YAMLError as error:
        raise usage_error(f"`{path}` is not valid yaml: {_where(error)}") from error
    except OSError as error:
        raise usage_error(f"cannot read `{path}`: {error.strerror}") from error
    if content is None:
        raise usage_error(f"`{path}` is empty", _START)
    if not isinstance(content, dict):
        raise usage_error(f"`{path}` is of type {type(content).__name__}, not a table of settings", _START)
    return content


def _where(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem or 'unreadable'}"
    return str(error).splitlines()[0]
