"""`bcnet recipes`: list, show, copy and check recipes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from bcnet_cli import console
from bcnet_cli.options import DryRun, Json, Overwrite, reserve_files

Name = Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or your own yaml file.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="SECTION.KEY=VALUE", help="Settings to change.")]

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Show, copy and check recipes.")


@app.command("list")
def list_recipes(*, as_json: Json = False) -> None:
    """List the recipes of this installation and what each of them trains.

    **Examples**

    `bcnet recipes list`

    `bcnet recipes list --json`
    """
    from bcnet_core.config import recipe_files

    first_lines = {path.stem: " ".join(recipe_files.read_header(path)[:1]) for path in recipe_files.list_recipes()}
    titles = {name: line.removeprefix("Trains:").strip() for name, line in first_lines.items()}
    if as_json:
        console.out.print(json.dumps(titles, ensure_ascii=False))
        return
    width = max(map(len, titles), default=0)
    for name, title in titles.items():
        console.out.print(Text.assemble((name.ljust(width), "bold"), "  ", title))


@app.command()
def show(name: Name, overrides: Overrides = None, *, as_json: Json = False) -> None:
    """Show the purpose of a recipe and every setting with its value and meaning.

    **Examples**

    `bcnet recipes show tiny`

    `bcnet recipes show tiny solver.lr=0.02 solver.steps=200 --json`
    """
    from bcnet_core.config.load import format_value, load_recipe, settings
    from bcnet_core.config.recipe_files import find_recipe, read_header

    recipe = load_recipe(name, overrides or ())
    if as_json:
        console.out.print(recipe.model_dump_json())
        return
    for line in read_header(find_recipe(name)):
        console.out.print(Text(line, style="dim"))
    rows = [(setting.key, format_value(setting.value), setting.description) for setting in settings(recipe)]
    key_width, value_width = (max(len(row[column]) for row in rows) for column in (0, 1))
    console.out.print()
    for key, value, description in rows:
        console.out.print(
            Text.assemble((key.ljust(key_width), "bold"), "  ", value.ljust(value_width), "  ", (description, "dim"))
        )


@app.command()
def copy(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe of this installation.")],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The yaml file to write.")],
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Copy a recipe to your own file, to change it.

    **Examples**

    `bcnet recipes copy tiny -o my_recipe.yaml`

    `bcnet recipes copy tiny -o my_recipe.yaml --overwrite`
    """
    from bcnet_core.config.recipe_files import find_shipped
    from bcnet_core.errors import usage_error
    from bcnet_core.files.outputs import atomic_file

    if output.suffix not in {".yaml", ".yml"}:
        raise usage_error(f"`{output}` must end in .yaml, to be different from a recipe's name")
    source = find_shipped(name)
    reserve_files(context, output, overwrite=overwrite, dry_run=dry_run)
    if dry_run:
        console.err.print(Text(f"would write {output}"))
        return
    with atomic_file(output) as temporary:
        temporary.write_bytes(source.read_bytes())
    console.show_outputs(output, then=f"bcnet recipes check {shlex.quote(str(output))}")


@app.command()
def check(name: Name, overrides: Overrides = None) -> None:
    """Check a recipe and report everything that is wrong with it.

    **Examples**

    `bcnet recipes check my_recipe.yaml`

    `bcnet recipes check my_recipe.yaml solver.lr=0.02`
    """
    from bcnet_core.config.load import load_recipe, settings

    recipe = load_recipe(name, overrides or ())
    console.out.print(Text(f"OK: {len(settings(recipe))} settings of {name} are valid"))
