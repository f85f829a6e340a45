"""Recipes: read from YAML, overridden from the command line, validated, written back.

A recipe is handled as a flat table `section.key -> value`: the defaults of the schema, then the `base:` file,
the file itself, the data root and the overrides, each over the one before. Everything that is wrong with any setting
is collected and reported in one error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from functools import cache, reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from bcnet_core.config.recipe_files import TextLoader, find_recipe, list_recipes, read_recipe_files
from bcnet_core.config.schema import Recipe
from bcnet_core.errors import BCNetError, usage_error

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "tuple": "a list such as [1, 2]",
    "path": "a path",
}
MOST_UNKNOWN = 20
"""Most unknown settings that an error names; finding similar settings for each takes a while."""


LENGTHS = {
    "solver.epochs": "solver.steps",
    "solver.warmup_epochs": "solver.warmup_steps",
    "solver.eval_epochs": "solver.eval_every",
}
"""Lengths in epochs, and the same in steps. The one that is given last counts: an override, a file, its base."""


class Setting(NamedTuple):
    """One setting of a recipe: its dotted key, its value and its meaning."""

    key: str
    value: Any
    description: str


class _Problem(NamedTuple):
    """One thing that is wrong; `key` is empty where it is not a single value."""

    key: str
    sentence: str
    hint: str | None


def load_recipe(source: str | Path, overrides: Sequence[str] = (), *, data_root: Path | None = None) -> Recipe:
    """Read a recipe, apply overrides and validate it; one error reports all that is wrong with the settings.

    Args:
        source: the name of a recipe of this installation, or a YAML file. A file may name one `base:` (a
            recipe name, or a file relative to it) whose settings it changes; that one may not name another.
        overrides: `section.key=value`, split on the first `=` and converted to the type of the setting; lists
            are written `[1,2]`, and `none` empties an optional setting. The last one of a key wins.
        data_root: replaces the file's `data.root`; an override of `data.root` wins over it.
    """
    path = find_recipe(str(source))
    values: dict[str, Any] = {}
    origins: dict[str, Path] = {}
    problems: list[_Problem] = []
    for file, mapping in read_recipe_files(path):
        in_file: dict[str, Any] = {}
        for key, value in _flatten(mapping):
            if key in in_file:
                raise usage_error(f"`{file}` sets `{key}` twice, as `{key}:` and inside its section")
            in_file[key] = value
        problems += _put_over(values, in_file)
        origins |= dict.fromkeys(in_file, file)
    given, unreadable = _parse_overrides(overrides)
    if data_root is not None:
        given = {"data.root": data_root} | given
    problems += unreadable + _put_over(values, given)
    problems += _unknown_settings([key for key in values if key not in _fields()])
    recipe, invalid = _validate({key: value for key, value in values.items() if key in _fields()})
    problems += invalid
    if problems or recipe is None:
        in_files = {key: file for key, file in origins.items() if key not in given}
        raise _report(problems, in_files, source if overrides else None)
    return recipe


def _put_over(values: dict[str, Any], layer: Mapping[str, Any]) -> list[_Problem]:
    """Put the settings of a file, or the overrides, over those before; a length in steps replaces one in epochs."""
    problems = []
    for in_epochs, in_steps in LENGTHS.items():
        counts_epochs = layer.get(in_epochs) is not None
        if counts_epochs and in_steps in layer:
            problems.append(_Problem(in_steps, f"`{in_steps}` and `{in_epochs}` exclude each other", "leave one out"))
        if counts_epochs or in_steps in layer:
            replaced = {in_epochs, in_steps} | ({"solver.min_steps"} if in_epochs == "solver.epochs" else set())
            for key in replaced:
                values.pop(key, None)
    values |= layer
    return problems


def dump_recipe(recipe: Recipe) -> str:
    """Write a recipe as YAML that `load_recipe` reads back to an equal one; a length is in epochs or in steps."""
    content = recipe.model_dump(mode="json")
    for in_epochs, in_steps in LENGTHS.items():
        section, name = in_steps.split(".")
        if content[section][in_epochs.split(".")[1]] is not None:
            del content[section][name]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def settings(recipe: Recipe) -> list[Setting]:
    """Return every setting of a recipe, in the order of the schema."""
    return [
        Setting(key, reduce(getattr, key.split("."), recipe), info.description or "") for key, info in _fields().items()
    ]


def format_value(value: Any) -> str:  # noqa: ANN401  (whatever a setting holds)
    """Write the value of a setting as an override would."""
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case tuple():
            return f"[{','.join(map(format_value, value))}]"
    return str(value)


@cache
def _fields() -> Mapping[str, FieldInfo]:
    """The schema as a flat table: dotted key -> field."""
    return MappingProxyType(dict(_walk(Recipe, "")))


def _walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, BaseModel):
            yield from _walk(kind, f"{prefix}{name}.")  # to Python 3.10, `tuple[int, ...]` is a type as well
        else:
            yield f"{prefix}{name}", info


@cache
def _defaults() -> Mapping[str, Any]:
    return MappingProxyType({setting.key: setting.value for setting in settings(Recipe())})


def _is_section(key: str) -> bool:
    return any(known.startswith(f"{key}.") for known in _fields())


def _flatten(mapping: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values. An empty section holds nothing; an unknown one is reported setting by setting."""
    for name, value in mapping.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{key}.")
        elif not (_is_section(key) and value in (None, {})):
            yield key, value


def _parse_overrides(overrides: Iterable[str]) -> tuple[dict[str, Any], list[_Problem]]:
    values: dict[str, Any] = {}
    problems: list[_Problem] = []
    for override in overrides:
        key, equals, text = (part.strip() for part in override.partition("="))
        if not equals or not key:
            problems.append(_Problem("", f"`{override}` is not an override", "an override is: section.key=value"))
        elif not text:
            problems.append(_Problem("", f"`{override}` has no value", _meaning(key)))
        else:
            values[key] = _parse(key, text)
    return values, problems


def _parse(key: str, text: str) -> Any:  # noqa: ANN401  (validated by the schema)
    info = _fields().get(key)
    if info is None:
        return text
    if text.lower() in {"none", "null"} and type(None) in get_args(info.annotation):
        return None
    if tuple not in {get_origin(kind) for kind in (info.annotation, *get_args(info.annotation))}:
        return text
    try:
        return yaml.load(text, Loader=TextLoader)
    except (yaml.YAMLError, RecursionError):
        return text


def _validate(values: Mapping[str, Any]) -> tuple[Recipe | None, list[_Problem]]:
    nested: dict[str, Any] = {}
    for key, value in (dict(_defaults()) | dict(values)).items():
        *sections, name = key.split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    try:
        return Recipe.model_validate(nested), []
    except ValidationError as error:
        return None, [_invalid(details) for details in error.errors()]


def _invalid(details: Mapping[str, Any]) -> _Problem:
    """Turn one of pydantic's errors into a sentence."""
    if details["type"] == "value_error":
        return _Problem("", str(details["ctx"]["error"]), None)
    key = ".".join(part for part in details["loc"] if isinstance(part, str))
    place = key + "".join(f"[{part}]" for part in details["loc"] if isinstance(part, int))
    if details["type"] == "missing":
        return _Problem(key, f"`{place}` is missing", _meaning(key))
    expected = _EXPECTED.get(details["type"].split("_")[0], details["msg"].removeprefix("Input should be "))
    if details["type"] in {"too_long", "too_short"}:
        bound = "at most" if details["type"] == "too_long" else "at least"
        expected = f"a list of {bound} {details['ctx'].get('max_length', details['ctx'].get('min_length'))}"
    value = "null" if details["input"] is None else str(details["input"])[:60]
    return _Problem(key, f"`{place}` must be {expected}, not `{value}`", _meaning(key))


def _unknown_settings(keys: Sequence[str]) -> list[_Problem]:
    more = [_Problem("", f"and {len(keys) - MOST_UNKNOWN:,} more unknown settings", None)]
    return [_unknown_setting(key) for key in keys[:MOST_UNKNOWN]] + (more if len(keys) > MOST_UNKNOWN else [])


def _unknown_setting(key: str) -> _Problem:
    if _is_section(key):
        first = next(known for known in _fields() if known.startswith(f"{key}."))
        return _Problem(key, f"`{key}` is a section, not a setting", f"it holds:     {first}, ...")
    nearest = " · ".join(f"{known} ({format_value(_defaults()[known])})" for known in _nearest(key))
    return _Problem(key, f"unknown setting `{key}`", f"did you mean: {nearest}" if nearest else None)


def _nearest(key: str) -> list[str]:
    """Return up to three settings whose name, or whose description's words, resemble the key."""
    section, _, name = key.rpartition(".")
    asked = _words(name)

    def score(known: str) -> float:
        known_section, _, known_name = known.rpartition(".")
        named, described = _words(known_name), _words(str(_fields()[known].description))
        by_words = sum(max(_closest(word, named), 0.95 * _closest(word, described)) for word in asked)
        same_section = 0.1 * (section == known_section)
        return max(0.8 * by_words / (len(asked) or 1), _closest(name, [known_name])) + same_section

    scores = {known: score(known) for known in _fields()}
    return sorted((known for known in scores if scores[known] >= 0.7), key=lambda known: -scores[known])[:3]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _closest(word: str, others: Sequence[str]) -> float:
    """Return the similarity of a word to the most similar of others, in [0, 1]."""
    return max((SequenceMatcher(None, word, other).ratio() for other in others), default=0.0)


def _meaning(key: str) -> str | None:
    if key not in _fields():
        return None
    return f"it means:     {_fields()[key].description} (default {format_value(_defaults()[key])})"


def _report(problems: Sequence[_Problem], origins: Mapping[str, Path], source: str | Path | None) -> BCNetError:
    """Report one problem as its sentence, several as a list; `source` is the recipe if it may be fine by itself."""
    if source is None or any(problem.key in origins for problem in problems):
        source = next((path.stem for path in list_recipes()), None)
    see_all = [f"see all:      bcnet recipes show {source}"] if source else []
    blocks = []
    for problem in problems:
        found = f"found in:     {origins[problem.key]}" if problem.key in origins else None
        blocks.append([problem.sentence, *filter(None, (problem.hint, found))])
    if len(blocks) == 1:
        return usage_error(*blocks[0], *see_all)
    lines = [("  " if row else "") + line for block in blocks for row, line in enumerate(block)]
    return usage_error(f"{len(problems)} settings cannot be used", *lines, *see_all)
