"""Recipes: layers, types, and one error that reports everything."""

from pathlib import Path
from textwrap import indent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bcnet_core.config.load import dump_recipe, format_value, load_recipe, settings
from bcnet_core.config.recipe_files import MAX_BYTES
from bcnet_core.config.schema import Recipe
from bcnet_core.errors import BCNetError, ExitCode


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    return write(tmp_path / "own.yaml", "seed: 3\nsolver: {lr: 0.5, steps: 100}\n")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def failure(source: Path, *overrides: str) -> BCNetError:
    with pytest.raises(BCNetError) as caught:
        load_recipe(source, overrides)
    assert caught.value.exit_code == ExitCode.USAGE
    assert "\n" not in caught.value.message
    return caught.value


def text_of(error: BCNetError) -> str:
    return "\n".join((error.message, *error.hints))


# --- layers


def test_a_file_changes_only_what_it_names(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    assert (recipe.seed, recipe.solver.lr, recipe.solver.steps) == (3, 0.5, 100)
    assert recipe.solver.batch_size == Recipe().solver.batch_size
    assert recipe.model == Recipe().model


def test_setting_one_path_of_a_data_set_keeps_the_other(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path / "a.yaml", "data: {train: {annotations: mine.json}}"))
    assert recipe.data.train.annotations == Path("mine.json")
    assert recipe.data.train.images == Recipe().data.train.images


def test_base_by_relative_file(recipe_file: Path) -> None:
    (recipe_file.parent / "sub").mkdir()
    child = write(recipe_file.parent / "sub" / "child.yaml", "base: ../own.yaml\nsolver: {lr: 0.25}\n")
    recipe = load_recipe(child)
    assert (recipe.seed, recipe.solver.lr, recipe.solver.steps) == (3, 0.25, 100)


def test_base_by_recipe_name(recipe_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    write(shipped / "parent.yaml", "seed: 9")
    monkeypatch.setattr("bcnet_core.config.recipe_files.SHIPPED", shipped)
    assert load_recipe(write(tmp_path / "child.yaml", "base: parent\nsolver: {lr: 0.25}")).seed == 9


def test_a_base_must_not_have_a_base(recipe_file: Path) -> None:
    child = write(recipe_file.with_name("child.yaml"), "base: own.yaml")
    error = failure(write(recipe_file.with_name("grandchild.yaml"), "base: child.yaml"))
    assert str(child) in error.message
    assert "has a `base` itself" in error.message


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    assert "gone.yaml" in failure(write(tmp_path / "a.yaml", "base: gone.yaml")).message


@pytest.mark.parametrize("base", ["[a, b]", "''", "null"])
def test_a_base_must_be_a_name(tmp_path: Path, base: str) -> None:
    assert "`base`" in failure(write(tmp_path / "a.yaml", f"base: {base}")).message


def test_a_file_is_converted_by_the_type_of_the_setting_as_an_override_is(tmp_path: Path) -> None:
    text = (
        "seed: 1_000\nmodel: {attention: no}\nsolver: {lr: 1e-3, milestones: [5, '6']}\ndata: {train: {images: 2017}}"
    )
    recipe = load_recipe(write(tmp_path / "a.yaml", text))
    assert (recipe.seed, recipe.model.attention, recipe.solver.lr) == (1000, False, 1e-3)
    assert (recipe.solver.milestones, recipe.data.train.images) == ((5, 6), Path("2017"))


@pytest.mark.parametrize(("text", "root"), [("null", None), ("~", None), ("", None), ("'null'", Path("null"))])
def test_only_unquoted_nulls_are_null(tmp_path: Path, text: str, root: Path | None) -> None:
    assert load_recipe(write(tmp_path / "a.yaml", f"data: {{root: {text}}}")).data.root == root


def test_an_empty_section_sets_nothing(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path / "a.yaml", "solver:\nmodel: {}\nseed: 1")) == Recipe(seed=1)


def test_data_root_wins_over_the_file_and_an_override_over_both(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "data: {root: from_file}")
    assert load_recipe(file).data.root == Path("from_file")
    assert load_recipe(file, data_root=Path("given")).data.root == Path("given")
    assert load_recipe(file, ["data.root=override"], data_root=Path("given")).data.root == Path("override")
    assert load_recipe(file, ["data.root=none"], data_root=Path("given")).data.root is None


# --- values


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("solver.lr=1e-3", 1e-3),
        ("solver.lr = 2", 2.0),
        ("solver.steps=7", 7),
        ("solver.optimizer=adamw", "adamw"),
        ("solver.milestones=[1,2]", (1, 2)),
        ("solver.milestones=[]", ()),
        ("solver.milestones=[0.7,6]", (0.7, 6)),
        ("model.anchor_scale=[4,8]", (4, 8)),
        ("model.anchor_scale=8", (8,)),
        ("model.mask_size=56", 56),
        ("model.mask_size=auto", "auto"),
        ("data.allow_no_occluders=true", True),
        ("data.allow_no_occluders=no", False),
        ("data.root=null", None),
        ("data.root=a=b", Path("a=b")),
        ("data.train.images=none", Path("none")),
    ],
)
def test_overrides_are_read_by_the_type_of_the_setting(recipe_file: Path, override: str, value: object) -> None:
    recipe = load_recipe(recipe_file, [override])
    key = override.partition("=")[0].strip()
    (found,) = [setting.value for setting in settings(recipe) if setting.key == key]
    assert found == value
    assert type(found) is type(value) or isinstance(value, Path)


def test_the_last_override_wins(recipe_file: Path) -> None:
    assert load_recipe(recipe_file, ["seed=4", "seed=5"]).seed == 5


def test_overrides_are_never_code(recipe_file: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for value in (
        f"__import__('os').mkdir({str(trap)!r})",
        f"!!python/object/apply:os.mkdir [{str(trap)!r}]",
    ):
        failure(recipe_file, f"solver.milestones={value}")
        failure(write(tmp_path / "trap.yaml", f"solver: {{milestones: {value}}}"))
    assert not trap.exists()


LIMIT = "a whole number from 1 to 1,000,000, or auto"
MILESTONE = "a step such as 60000 or a share of the run such as 0.7"
BAD_OVERRIDES = {
    "solver.lr": "`solver.lr` is not an override",
    "=3": "`=3` is not an override",
    "solver.lr=": "`solver.lr=` has no value",
    "solver=4": "`solver` is a section, not a setting",
    "solver.lr.x=1": "unknown setting `solver.lr.x`",
    "solver.lr=fast": "`solver.lr` must be a number, not `fast`",
    "solver.lr=0": "`solver.lr` must be greater than 0, not `0`",
    "solver.lr=inf": "`solver.lr` must be a finite number, not `inf`",
    "solver.lr=nan": "`solver.lr` must be a finite number, not `nan`",
    "solver.steps=1.5": "`solver.steps` must be a whole number, not `1.5`",
    "solver.steps=true": "`solver.steps` must be a whole number, not `true`",
    "model.detections_per_image=many": f"`model.detections_per_image` must be {LIMIT}, not `many`",
    "model.detections_per_image=0": f"`model.detections_per_image` must be {LIMIT}, not `0`",
    "solver.steps=none": "`solver.steps` must be a whole number, not `none`",
    "solver.optimizer=adam": "`solver.optimizer` must be 'sgd' or 'adamw', not `adam`",
    "solver.milestones=1,2": "`solver.milestones` must be a list such as [1, 2], not `1,2`",
    "solver.milestones=[1,x]": f"`solver.milestones[1]` must be {MILESTONE}, not `x`",
    "solver.milestones=[1,true]": f"`solver.milestones[1]` must be {MILESTONE}, not `true`",
    "solver.milestones=[1.5]": f"`solver.milestones[0]` must be {MILESTONE}, not `1.5`",
    "solver.milestones=[1,": "`solver.milestones` must be a list such as [1, 2], not `[1,`",
    "data.copy_paste.scale=[1,2,3]": "`data.copy_paste.scale` must be a list of at most 2, not `['1', '2', '3']`",
    "data.copy_paste.overlap=[0.1]": "`data.copy_paste.overlap[1]` is missing",
    "model.detections_per_image=3000000000": f"`model.detections_per_image` must be {LIMIT}, not `3000000000`",
    "model.anchor_scale=[]": "`model.anchor_scale` must be a whole number or a list of them such as [4, 8], not `[]`",
    "model.anchor_scale=[4,x]": "`model.anchor_scale[1]` must be a whole number, not `x`",
    "model.anchor_scale=0": "`model.anchor_scale[0]` must be greater than 0, not `0`",
    "data.allow_no_occluders=7": "`data.allow_no_occluders` must be true or false, not `7`",
    "solver.epochs=0": "`solver.epochs` must be greater than 0, not `0`",
    "solver.min_steps=5": "solver.min_steps is for a run whose length is in epochs: set solver.epochs, or "
    "solver.min_steps=0",
    "solver.patience=3": "solver.patience counts evaluations: set solver.eval_epochs or solver.eval_every, or "
    "solver.patience=0",
    "data.flip=1.5": "`data.flip` must be less than or equal to 1, not `1.5`",
    "data.max_size=5": "data.max_size (5) is smaller than data.min_size (600)",
}


@pytest.mark.parametrize(("override", "message"), BAD_OVERRIDES.items())
def test_a_bad_override_is_one_clear_sentence(recipe_file: Path, override: str, message: str) -> None:
    error = failure(recipe_file, override)
    assert error.message == message
    assert f"see all:      bcnet recipes show {recipe_file}" in error.hints


BAD_VALUES = {
    "seed: yes": "`seed` must be a whole number, not `yes`",
    "seed: null": "`seed` must be a whole number, not `null`",
    "seed: -1": "`seed` must be greater than or equal to 0, not `-1`",
    "solver: 5": "`solver` is a section, not a setting",
    "solver: [1]": "`solver` is a section, not a setting",
    "solver: {lr: {a: 1}}": "unknown setting `solver.lr.a`",
    "solver: {lr: 1e400}": "`solver.lr` must be a finite number, not `1e400`",
    "data: {train: {images: [7]}}": "`data.train.images` must be a path, not `['7']`",
    "7: x": "unknown setting `7`",
    "sovler: {}": "unknown setting `sovler`",
}


@pytest.mark.parametrize(("text", "message"), BAD_VALUES.items())
def test_a_bad_value_in_a_file_is_reported_with_the_file(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path / "a.yaml", text)
    error = failure(file)
    assert error.message == message
    assert f"found in:     {file}" in error.hints
    assert f"show {file}" not in text_of(error), "showing a broken recipe would fail in the same way"


# --- files


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "only a comment": (b"# nothing\n", "is empty"),
    "list": (b"- 1\n", "is of type list, not a table of settings"),
    "text": (b"hello", "is of type str, not a table of settings"),
    "bad yaml": (b"seed: 1\nsolver: {lr: 1\n", "is not valid yaml: line 3, column 1"),
    "tab": (b"solver:\n\tlr: 1\n", "is not valid yaml: line 2, column 1"),
    "two documents": (b"seed: 1\n---\nseed: 2\n", "is not valid yaml: line 2, column 1"),
    "binary": (b"\x89PNG\xff\xfe\x00", "is not a text file"),
    "null bytes": (b"seed: 1\x00\x00", "is not valid yaml"),
    "key twice": (b"solver:\n  lr: 1\n  lr: 2\n", "is not valid yaml: line 3, column 3: it sets `lr` twice"),
    "section twice": (
        b"solver: {lr: 1}\nsolver: {steps: 2}\n",
        "is not valid yaml: line 2, column 1: it sets `solver` twice",
    ),
    "key twice, once dotted": (b"solver: {lr: 1}\nsolver.lr: 2\n", "sets `solver.lr` twice"),
    "reference": (b"a: &x [1]\nb: *x\n", "is not valid yaml: line 2, column 4: it refers to `*x`"),
    "endless": (b"a: &x {b: *x}\n", "is not valid yaml: line 1, column 11: it refers to `*x`"),
    "deep": (b"[" * 5000, "is nested too deeply for a recipe"),
    "annotation file": (b"x" * (MAX_BYTES + 1), "is too large"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_one_clear_sentence(tmp_path: Path, name: str) -> None:
    content, sentence = BAD_FILES[name]
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    assert f"`{file}` {sentence}" in failure(file).message


def test_a_file_without_read_permission(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert failure(recipe_file).message == f"cannot read `{recipe_file}`: Permission denied"


# --- suggestions


def test_an_unknown_setting_shows_similar_ones(recipe_file: Path) -> None:
    error = failure(recipe_file, "solver.leaning_rate=0.1")
    assert error.message == "unknown setting `solver.leaning_rate`"
    assert error.hints[0].startswith("did you mean: solver.lr (0.01) · ")
    assert error.hints[-1] == f"see all:      bcnet recipes show {recipe_file}"


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("solver.learning_rate", "solver.lr (0.01)"),
        ("lr", "solver.lr (0.01)"),
        ("optimizer.lr", "solver.lr (0.01)"),
        ("solver.stepz", "solver.steps (90000)"),
        ("batch", "solver.batch_size (16)"),
        ("num_workers", "data.workers (2)"),
        ("probability", "data.copy_paste.probability (0.0)"),
        ("root", "data.root (none)"),
        ("solver.milestone", "solver.milestones ([60000,80000])"),
    ],
)
def test_suggestions_come_from_names_and_meanings(recipe_file: Path, key: str, nearest: str) -> None:
    assert failure(recipe_file, f"{key}=1").hints[0].startswith(f"did you mean: {nearest}")


def test_nothing_is_suggested_for_a_key_like_no_other(recipe_file: Path) -> None:
    assert "did you mean" not in text_of(failure(recipe_file, "zzzz.qqqq=1"))


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "sede: 1\nsolver: {lr: fast, steps: 0}\nmodel: {detector: yolo}")
    error = failure(file, "data.flip=2", "oops", "batch=3")
    assert error.message == "7 settings cannot be used"
    for part in (
        "`sede`",
        "`solver.lr`",
        "`solver.steps`",
        "`model.detector`",
        "`data.flip`",
        "`oops`",
        "`batch`",
    ):
        assert any(part in hint for hint in error.hints), part
    assert sum("found in:" in hint for hint in error.hints) == 4


def test_an_override_replaces_a_bad_value_of_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "solver: {lr: fast}")
    assert load_recipe(file, ["solver.lr=0.5"]).solver.lr == 0.5
    assert "found in:" not in text_of(failure(file, "solver.lr=slow"))


# --- lengths in steps or in epochs


IN_EPOCHS = "solver: {epochs: 12, min_steps: 500, warmup_epochs: 1, eval_epochs: 2, patience: 4}"


def lengths(recipe: Recipe) -> tuple[object, ...]:
    solver = recipe.solver
    return (solver.epochs, solver.steps, solver.min_steps, solver.warmup_epochs, solver.eval_epochs, solver.eval_every)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], (12, 90_000, 500, 1, 2, 0)),
        (["solver.steps=100"], (None, 100, 0, 1, 2, 0)),
        (["solver.epochs=3"], (3, 90_000, 0, 1, 2, 0)),
        (["solver.epochs=3", "solver.min_steps=9"], (3, 90_000, 9, 1, 2, 0)),
        (["solver.warmup_steps=7", "solver.eval_every=50"], (12, 90_000, 500, None, None, 50)),
        (["solver.steps=100", "solver.epochs=none"], (None, 100, 0, 1, 2, 0)),
    ],
)
def test_a_length_that_is_given_later_replaces_the_one_before(
    tmp_path: Path, overrides: list[str], expected: tuple[object, ...]
) -> None:
    write(tmp_path / "base.yaml", IN_EPOCHS)
    assert lengths(load_recipe(tmp_path / "base.yaml", overrides)) == expected
    lines = "\n".join(overrides).replace("solver.", "").replace("=", ": ").replace("none", "null")
    file = write(tmp_path / "own.yaml", f"base: base.yaml\nsolver:\n{indent(lines, '  ')}")
    assert lengths(load_recipe(file)) == expected


def test_epochs_replace_the_steps_of_a_base(tmp_path: Path) -> None:
    file = write(tmp_path / "own.yaml", "base: tiny\nsolver: {epochs: 8}")
    assert lengths(load_recipe(file))[:2] == (8, 90_000)
    assert load_recipe(file).solver.warmup_steps == load_recipe("tiny").solver.warmup_steps


@pytest.mark.parametrize(
    "pair", [("steps", "epochs"), ("warmup_steps", "warmup_epochs"), ("eval_every", "eval_epochs")]
)
def test_two_lengths_at_once_are_an_error(recipe_file: Path, tmp_path: Path, pair: tuple[str, str]) -> None:
    sentence = f"`solver.{pair[0]}` and `solver.{pair[1]}` exclude each other"
    error = failure(recipe_file, f"solver.{pair[0]}=5", f"solver.{pair[1]}=6")
    assert (error.message, error.hints[0], error.exit_code) == (sentence, "leave one out", 2)
    assert failure(write(tmp_path / "b.yaml", f"solver: {{{pair[0]}: 5, {pair[1]}: 6}}")).message == sentence


def test_a_dumped_recipe_in_epochs_reads_back_equal(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path / "a.yaml", IN_EPOCHS), ["solver.milestones=[0.6,0.9,70]"])
    text = dump_recipe(recipe)
    assert load_recipe(write(tmp_path / "b.yaml", text)) == recipe
    assert "steps: 90000" not in text and "- 0.6" in text and "- 70\n" in text


# --- writing


def test_settings_cover_the_whole_schema() -> None:
    found = settings(Recipe())
    assert found[0] == ("seed", 0, "seed of weights, order, augmentation and sampling")
    assert {"data.train.images", "model.nms_iou", "loss.box", "solver.lr"} <= {setting.key for setting in found}
    assert len({setting.key for setting in found}) == len(found)
    assert all(setting.description for setting in found)


finite = st.floats(min_value=1e-300, max_value=1e300)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\x85\u2028\u2029"), min_size=1)


datasets = st.fixed_dictionaries({"annotations": names, "images": names})
recipes = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**63 - 1),
        "data": st.fixed_dictionaries({"root": st.none() | names, "train": datasets}),
        "solver": st.fixed_dictionaries({"lr": finite, "weight_decay": finite, "milestones": st.lists(st.integers())}),
    }
).map(Recipe.model_validate)


@given(recipes)
def test_a_dumped_recipe_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    file = write(tmp_path_factory.mktemp("dump") / "recipe.yaml", dump_recipe(recipe))
    assert load_recipe(file) == recipe


def test_every_value_can_be_used_as_an_override(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ["solver.milestones=[5,6]", "data.root=here"])
    given = [f"{setting.key}={format_value(setting.value)}" for setting in settings(recipe)]
    assert load_recipe(recipe_file, given) == recipe
