"""Write the pages that follow from the program: commands.md from its commands, recipe-keys.md from its schema.

Run: `make docs`. A test holds the pages in the repository against what this writes.
"""

import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from bcnet_core.config.load import Setting, format_value, settings
from bcnet_core.config.schema import Recipe

COMMANDS = """\
# All commands

What `bcnet COMMAND --help` prints, written from the program by `make docs`. [Command line](cli.md) says what all
commands share, exit codes too.

"""
KEYS = """\
# Recipe keys

Every setting of a recipe, and the value that it has where a recipe does not set it; written from the schema by
`make docs`. [Recipes](recipes.md) says how they are set, and `bcnet recipes show tiny` what a recipe makes of them.
"""
BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "multipleOf": "multiple of",
}
KINDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "`true`, `false`",
    "string": "path",
    "null": "`none`",
}


def commands_page() -> str:
    """Typer's page of a program, with the examples as blocks."""
    typer = [sys.executable, "-m", "typer", "bcnet_cli.app", "utils", "docs", "--name", "bcnet"]
    page = subprocess.run(typer, check=True, capture_output=True, text=True).stdout
    page = re.sub(r"```console\n\$ (.*)", lambda usage: f"```text\n{re.sub('[{}]', '', usage[1])}", page)
    page = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+\n", "", page)  # their summaries are cut off; headings name them
    page = re.sub(r"\*\*Examples\*\*\n\n((?:`[^`]+`\n\n)+)", _block, page)
    return COMMANDS + page.partition("\n\n")[2].rstrip() + "\n"


def _block(examples: re.Match[str]) -> str:
    return "\n".join(["```bash", *re.findall(r"`([^`]+)`", examples[1]), "```", "", ""])


def keys_page() -> str:
    """A table of each section of the schema."""
    schema = Recipe.model_json_schema()
    lines = [KEYS]
    for section, members in groupby(settings(Recipe()), key=_section):
        lines += [f"## {section}", "", "| key | value | default | meaning |", "|---|---|---|---|"]
        lines += [_row(setting, _field(schema, setting.key)) for setting in members]
        lines.append("")
    return "\n".join(lines)


def _section(setting: Setting) -> str:
    section, dot, _ = setting.key.partition(".")
    return section if dot else "the recipe itself"


def _row(setting: Setting, field: dict[str, Any]) -> str:
    return f"| `{setting.key}` | {_values(field)} | `{format_value(setting.value)}` | {setting.description} |"


def _field(schema: dict[str, Any], key: str) -> dict[str, Any]:
    field = schema
    for part in key.split("."):
        if "$ref" in field:
            field = schema["$defs"][field["$ref"].rpartition("/")[2]]
        field = field["properties"][part]
    return field


def _values(field: dict[str, Any]) -> str:
    """What a setting may be, in words."""
    if "anyOf" in field:
        return " or ".join(map(_values, field["anyOf"]))
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        return f"list of {len(field['prefixItems'])} numbers" if "prefixItems" in field else "list of numbers"
    bounds = [f"{words} {field[bound]}" for bound, words in BOUNDS.items() if bound in field]
    return ", ".join([KINDS[field["type"]], *bounds])


PAGES = {"commands.md": commands_page, "recipe-keys.md": keys_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        Path(__file__).with_name(name).write_text(page(), encoding="utf-8")
