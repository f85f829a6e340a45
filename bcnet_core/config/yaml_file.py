"""The yaml files of a recipe, read strictly: what yaml would accept silently and wrongly is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from bcnet_core.config.paths import find_recipe
from bcnet_core.errors import usage_error
from bcnet_core.files.inputs import is_special

MAX_BYTES = 100_000
"""No recipe is larger; an annotation file given by mistake would keep the yaml parser busy for hours."""
MAX_LENGTH = 2000
"""Of a key or a value: yaml knows numbers whose digits take hours to count."""
MAX_DEPTH = 20
"""No recipe is nested deeper; the time that the yaml parser takes grows with the square of the depth."""

_OPENING = (
    yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken, yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken,
)  # fmt: skip
_CLOSING = (yaml.BlockEndToken, yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken)
_START = "start from:   bcnet recipes list"


def read_recipe_files(path: Path) -> list[tuple[Path, dict[Any, Any]]]:
    """Read a recipe file and the one it is based on.

    Args:
        path: a yaml file. Its optional top-level `base` is the name of a recipe of this installation, or a
            yaml file relative to this one.

    Returns:
        File and content (without `base`) of the base, if there is one, and then of the recipe itself.

    Raises:
        BCNetError: if a file is missing, no table of settings, or the base has a base itself (usage).
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
    text = _read_text(path)
    try:
        _refuse_ambiguous(text, path)
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, LookupError, AttributeError) as error:  # as `!!int ""` is
        raise usage_error(f"`{path}` is not valid yaml: {_where(error)}") from error
    if content is None:
        raise usage_error(f"`{path}` is empty", _START)
    if not isinstance(content, dict):
        raise usage_error(f"`{path}` is of type {type(content).__name__}, not a table of settings", _START)
    return content


def _read_text(path: Path) -> str:
    try:
        if is_special(path):
            raise usage_error(f"`{path}` is a pipe or a device, not a file", "write what it gives to a file first")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise usage_error(f"`{path}` is too large for a recipe ({size / 1e3:,.0f} kB)", _START)
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise usage_error(f"`{path}` is not a text file", _START) from error
    except OSError as error:
        raise usage_error(f"cannot read `{path}`: {error.strerror}") from error


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return str(error).splitlines()[0]
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', None) or 'unreadable'}"


def _refuse_ambiguous(text: str, path: Path) -> None:
    """Refuse references, what is too long or deep to be meant, and a key that is given twice (the last would win)."""
    depth = 0
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        line = token.start_mark.line + 1
        if isinstance(token, yaml.ScalarToken) and len(token.value) > MAX_LENGTH:
            raise usage_error(f"`{path}` has a text of {len(token.value):,} characters in line {line}", _START)
        depth += isinstance(token, _OPENING) - isinstance(token, _CLOSING)
        if depth > MAX_DEPTH:
            raise usage_error(f"`{path}` is nested too deeply for a recipe, in line {line}", _START)
        if isinstance(token, yaml.AliasToken):
            raise usage_error(f"`{path}` refers to `*{token.value}` in line {line}; write the value instead")
    pending = [yaml.compose(text, Loader=yaml.SafeLoader)]
    while pending:
        node = pending.pop()
        if not isinstance(node, yaml.MappingNode):
            continue
        seen: set[Any] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                line = key.start_mark.line + 1
                raise usage_error(f"`{path}` sets `{key.value}` twice (again in line {line})")
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
            pending.append(value)
