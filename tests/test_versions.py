"""The versions in pyproject.toml and the two constraint files agree, so that the test legs test what is promised."""

import sys
from collections.abc import Iterable

from packaging.requirements import Requirement
from packaging.version import Version

from tests.conftest import REPO

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest itself needs it there

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = ("large", "onnx", "tensorboard", "timm", "docs", "dev")
"""Extras that `make` installs; detectron2 is built by hand and not part of the test legs."""


def read_pins(name: str) -> dict[str, Version]:
    """Read the versions of a constraint file by lower-case name; its lines must all be `name==version`."""
    lines = (line.partition("#")[0].strip() for line in (REPO / name).read_text(encoding="utf-8").splitlines())
    pins = {}
    for requirement in (Requirement(line) for line in lines if line):
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and requirement.name.lower() not in pins
        pins[requirement.name.lower()] = Version(specifier.version)
    return pins


def requirements() -> Iterable[Requirement]:
    lines = PROJECT["dependencies"] + [line for extra in EXTRAS for line in PROJECT["optional-dependencies"][extra]]
    return (requirement for requirement in map(Requirement, lines) if requirement.name != "bcnet")


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    bounds = {}
    for requirement in requirements():
        least = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
        assert len(least) == 1, f"{requirement} has no lower bound"
        bounds[requirement.name.lower()] = least[0]
    assert read_pins("constraints-oldest.txt") == bounds


def test_the_pinned_versions_are_in_their_ranges() -> None:
    pins = read_pins("constraints.txt")
    outside = [str(needed) for needed in requirements() if pins[needed.name.lower()] not in needed.specifier]
    assert not outside


def test_the_classifiers_begin_at_the_oldest_python() -> None:
    said = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if "Python :: 3." in line]
    assert PROJECT["requires-python"] == f">={said[0]}"
