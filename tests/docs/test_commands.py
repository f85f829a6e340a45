"""What the documents tell people to type is what the program understands.

Covers the shell blocks of README.md and docs/, the examples of every `--help`, and the `Before:`
and `Run:` lines of every recipe. Commands are parsed by the real command line and not run.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
SHELLS = {"", "bash", "console", "sh"}
TAKE_OVERRIDES = {"bcnet train", "bcnet recipes show", "bcnet recipes check"}

ClickError: type[Exception] = typer.BadParameter.__mro__[2]
"""click's base of "this command line is wrong", from wherever typer brings its click."""


class Parsed(NamedTuple):
    """A command line as the program understands it."""

    command: str
    values: list[Any]


# --- finding commands


def shell_blocks(markdown: str) -> Iterator[list[str]]:
    """The lines of each fenced block that is shell or says no language."""
    block: list[str] | None = None
    language = ""
    for line in markdown.splitlines():
        if line.strip().startswith("```"):
            if block is None:
                block, language = [], line.strip().removeprefix("```").strip()
            else:
                if language in SHELLS:
                    yield block
                block = None
        elif block is not None:
            block.append(line.strip())


def typed_lines(block: list[str]) -> list[str]:
    """What is typed: with prompts only the lines behind one; lines that end in a backslash are joined."""
    joined = "\n".join(block).replace("\\\n", " ").splitlines()
    prompted = [line.removeprefix("$ ") for line in joined if line.startswith("$ ")]
    return prompted or joined


def split_commands(line: str) -> Iterator[list[str]]:
    """The `bcnet` and `make` commands of a shell line, without assignments, comments and redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("();|&"):
            while words and re.fullmatch(r"\w+=\S*", words[0]):
                words.pop(0)
            if words[:1] in (["bcnet"], ["make"]):
                arguments = words[: words.index(">")] if ">" in words else words
                yield arguments
            words = []
        else:
            words.append(word)


def commands_of_document(markdown: str) -> list[list[str]]:
    starts = re.compile(r"(\w+=\S+ )*(bcnet|make)( |$)")
    lines = [line for block in shell_blocks(markdown) for line in typed_lines(block) if starts.match(line)]
    return [command for line in lines for command in split_commands(line)]


def commands_of_header(recipe: str) -> list[list[str]]:
    """The commands behind `Before:` and `Run:` in the comment at the top of a recipe."""
    commands: list[list[str]] = []
    label = ""
    header = re.match(r"(?:#.*\n)*", recipe)
    for line in header[0].replace("\\\n#", " ").splitlines() if header else []:
        text = line.removeprefix("#").strip()
        if found := re.match(r"([A-Z]\w*):\s*", text):
            label, text = found[1], text[found.end() :]
        if label in {"Before", "Run"}:
            commands += split_commands(text.replace("`", " "))
    return commands


# --- understanding them


@pytest.fixture(scope="module")
def program() -> Any:
    """The real command line, in which every command only tells what it was given."""
    from bcnet_cli.app import app

    root = typer.main.get_command(app)
    root.callback = lambda **_: None
    for name, command in leaves(root):
        command.callback = teller(name, command)
    return root


def leaves(command: Any, name: str = "bcnet") -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
    for sub_name, sub_command in getattr(command, "commands", {}).items():
        yield from leaves(sub_command, f"{name} {sub_name}")


def teller(name: str, command: Any) -> Any:
    arguments = [parameter.name for parameter in command.params if parameter.param_type_name == "argument"]
    return lambda **given: Parsed(name, [given[argument] for argument in arguments])


def understand(program: Any, command: list[str]) -> None:
    """Raise if the program would refuse the command line for what it says."""
    if command[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        unknown = [word for word in command[1:] if "=" not in word and word not in targets]
        assert not unknown, f"the Makefile has no {unknown}"
        return
    parsed = program.main(command[1:], prog_name="bcnet", standalone_mode=False)
    if isinstance(parsed, Parsed) and parsed.command in TAKE_OVERRIDES and "--d2-config" not in command:
        check_recipe(*parsed.values)


def check_recipe(recipe: str | None, overrides: list[str] | None) -> None:
    """Whether a shipped recipe exists and the overrides fit; a reader's own file is taken for a shipped one."""
    from bcnet_cli.recipe_choice import choose_recipe
    from bcnet_core.config.load import load_recipe

    chosen = choose_recipe([*filter(None, [recipe]), *(overrides or [])], device="cpu", resumed=None)
    load_recipe(RECIPES[0] if chosen.name.endswith((".yaml", ".yml")) else chosen.name, chosen.overrides)


def problem_of(program: Any, command: list[str]) -> str | None:
    """What is wrong with a command line, if anything."""
    from bcnet_core.errors import BCNetError

    try:
        understand(program, command)
    except (ClickError, BCNetError, AssertionError) as error:
        return f"{shlex.join(command)}\n    {getattr(error, 'message', None) or error}"
    return None


def misunderstood(program: Any, commands: list[list[str]]) -> list[str]:
    return [problem for command in commands if (problem := problem_of(program, command))]


# --- the documents


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_commands_of_a_document(program: Any, document: Path) -> None:
    problems = misunderstood(program, commands_of_document(document.read_text(encoding="utf-8")))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name
)
def test_the_links_of_a_document_lead_to_a_file(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text(encoding="utf-8"))
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_the_readme_and_the_contributing_guide_have_commands() -> None:
    for document in (ROOT / "README.md", ROOT / "docs" / "contributing.md"):
        assert commands_of_document(document.read_text(encoding="utf-8")), document.name


def test_every_help_ends_with_two_examples_that_parse(program: Any) -> None:
    problems = []
    for name, command in leaves(program):
        examples = re.findall(r"`([^`]*\bbcnet [^`]*)`", (command.help or "").partition("**Examples**")[2])
        commands = [command for example in examples for command in split_commands(example)]
        if sum(shlex.join(command).startswith(name) for command in commands) < 2:
            problems.append(f"{name} --help has no two examples")
        problems += misunderstood(program, commands)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_commands_of_a_recipe_header(program: Any, recipe: Path) -> None:
    commands = commands_of_header(recipe.read_text(encoding="utf-8"))
    assert ["bcnet", "train", recipe.stem] in [command[:3] for command in commands], "Run: trains this recipe"
    problems = misunderstood(program, commands)
    assert not problems, "\n".join(problems)


# --- the check itself

MARKDOWN = r"""
bcnet outside of a block
```python
bcnet in another language
```
```bash
# a comment
bcnet annotate in.json \
    -o out.json   # where it goes
BCNET_DATA=coco NO_COLOR=1 bcnet train tiny "solver.milestones=[1, 2]" | tee log && make test
bcnet eval runs/tiny --json > result.json
pip install bcnet
```
  ```console
  $ bcnet viz \
      in.json -o panels
  bcnet prints this itself
  ```
"""


def test_commands_are_found_where_people_read_them() -> None:
    assert commands_of_document(MARKDOWN) == [
        ["bcnet", "annotate", "in.json", "-o", "out.json"],
        ["bcnet", "train", "tiny", "solver.milestones=[1, 2]"],
        ["make", "test"],
        ["bcnet", "eval", "runs/tiny", "--json"],
        ["bcnet", "viz", "in.json", "-o", "panels"],
    ]


def test_commands_are_found_in_a_header() -> None:
    recipe = (
        "# tiny\n# Trains: bcnet no\n# Before: `bcnet a`\n#         bcnet b \\\n#           -o x\n"
        "# Run:    bcnet train tiny\n# Batch:  bcnet no\nseed: 1\n# Run: bcnet no\n"
    )
    assert commands_of_header(recipe) == [
        ["bcnet", "a"],
        ["bcnet", "b", "-o", "x"],
        ["bcnet", "train", "tiny"],
    ]


@pytest.mark.parametrize(
    "line",
    [
        "bcnet recipes show tiny solver.lr=0.5",
        "bcnet recipes check my_own.yaml solver.lr=0.5",
        "bcnet recipes copy tiny -o there/is/no/such/folder/own.yaml",
        "bcnet recipes list --help",
        "bcnet --version",
        "make test PYTHON=python3.12",
    ],
)
def test_a_good_command_is_understood(program: Any, line: str) -> None:
    assert misunderstood(program, list(split_commands(line))) == []


@pytest.mark.parametrize(
    "line",
    [
        "bcnet anotate in.json -o out.json",
        "bcnet recipes",
        "bcnet recipes copy tiny",
        "bcnet recipes copy -o own.yaml",
        "bcnet recipes list --jsonn",
        "bcnet recipes show no_such_recipe",
        "bcnet recipes show tiny solver.leaning_rate=1",
        "bcnet recipes check my_own.yaml solver.lr=fast",
        "bcnet train no_such_recipe",
        "bcnet train tiny --gpus many",
        "bcnet train tiny solver.leaning_rate=1",
        "make no-such-target",
    ],
)
def test_a_bad_command_is_noticed(program: Any, line: str) -> None:
    assert len(misunderstood(program, list(split_commands(line)))) == 1
