"""Where recipes are found, and the recipes of this project themselves."""

from pathlib import Path

import pytest

from bcnet_core.config import recipe_files
from bcnet_core.config.load import dump_recipe, load_recipe
from bcnet_core.errors import BCNetError, ExitCode

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
HEADER = ("Trains:", "Before:", "Run:", "Batch:", "AP:")


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel's folder with two recipes."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    for name in ("tiny", "shapes"):
        (folder / f"{name}.yaml").write_text(f"# {name}\n# Trains: x\n\n# not the header\nseed: 1\n")
    monkeypatch.setattr(recipe_files, "SHIPPED", folder)
    return folder


def test_a_checkout_lists_its_top_level_recipes() -> None:
    assert recipe_files.list_recipes() == RECIPES
    assert RECIPES, "no recipes at the top of the repository"


def test_a_wheel_lists_the_recipes_in_it(shipped: Path) -> None:
    assert [path.name for path in recipe_files.list_recipes()] == ["shapes.yaml", "tiny.yaml"]
    assert recipe_files.find_recipe("tiny") == shipped / "tiny.yaml"


def test_the_wheel_puts_recipes_where_they_are_searched() -> None:
    assert '\nrecipes = "bcnet_core/recipes"\n' in (ROOT / "pyproject.toml").read_text()
    assert ROOT / "bcnet_core/recipes" == recipe_files.SHIPPED


@pytest.mark.parametrize("name", ["own.yaml", "own.yml"])
def test_a_file_of_your_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shipped: Path, name: str) -> None:
    (tmp_path / name).write_text("seed: 1")
    monkeypatch.chdir(tmp_path)
    assert recipe_files.find_recipe(name) == Path(name)
    assert recipe_files.find_recipe(str(tmp_path / name)) == tmp_path / name


@pytest.mark.parametrize("name", ["tinny", "tinny.yaml", "some/where/tinny.yaml"])
def test_an_unknown_recipe_names_the_nearest_and_all(shipped: Path, name: str) -> None:
    with pytest.raises(BCNetError) as caught:
        recipe_files.find_recipe(name)
    assert name in caught.value.message
    assert caught.value.exit_code == ExitCode.USAGE
    assert caught.value.hints[:2] == ("did you mean: tiny", "all recipes:  shapes · tiny")


def test_a_folder_is_not_a_recipe(shipped: Path) -> None:
    with pytest.raises(BCNetError, match="is a folder, not a recipe"):
        recipe_files.find_recipe(str(shipped))


def test_only_names_find_shipped_recipes(shipped: Path) -> None:
    with pytest.raises(BCNetError, match="unknown recipe"):
        recipe_files.find_shipped(str(shipped / "tiny.yaml"))


def test_the_header_is_the_comment_at_the_top(shipped: Path) -> None:
    assert recipe_files.read_header(shipped / "tiny.yaml") == ["tiny", "Trains: x"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_reads_back(recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe.stem)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_recipe(loaded))
    assert load_recipe(copy) == loaded


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_has_a_complete_header(recipe: Path) -> None:
    missing = [word for word in HEADER if not any(line.startswith(word) for line in recipe_files.read_header(recipe))]
    assert not missing


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_can_be_copied_elsewhere(recipe: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.yaml"
    copy.write_bytes(recipe.read_bytes())
    assert load_recipe(copy) == load_recipe(recipe), "a shipped recipe names its base by recipe name"
