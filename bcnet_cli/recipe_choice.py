"""The recipe of `bcnet train`: the one that is named, that of a run to resume, or one for photos of one's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple


class ChosenRecipe(NamedTuple):
    """A recipe, and the settings that override it.

    Attributes:
        name: of a recipe, or the path of a yaml file.
        overrides: `section.key=value`.
        note: what to tell the user of the choice; None if the user made it.
    """

    name: str
    overrides: list[str]
    note: str | None


def choose_recipe(words: list[str], *, device: str, resumed: Path | None) -> ChosenRecipe:
    """Choose the recipe of a training.

    Args:
        words: what was typed: a recipe's name or file, if the first word is not an override, and overrides.
        device: value of --device.
        resumed: directory of the run to resume, or None.

    Raises:
        BCNetError: if the device does not exist.
    """
    from bcnet_core.distributed import choose_device
    from bcnet_core.engine.run_dir import RECIPE_FILE

    first = words[0] if words else ""
    if first and (not re.match(r"[\w.]*\s*=", first) or Path(first).is_file()):
        return ChosenRecipe(first, words[1:], None)
    if resumed is not None and (resumed / RECIPE_FILE).is_file():
        return ChosenRecipe(str(resumed / RECIPE_FILE), words, None)
    on_gpu = choose_device(device).type == "cuda"
    name = "own_rcnn" if on_gpu else "own_light"
    note = f"recipe {name}, as no other was named and this is a {'GPU' if on_gpu else 'CPU'}; all: bcnet recipes list"
    return ChosenRecipe(name, words, note)
