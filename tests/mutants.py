"""What only `make mutants` needs: as a plugin of pytest it makes each mutant's tests quick, as a program it counts.

Run: `mutmut results --all true | python tests/mutants.py`, which fails where less than `LEAST` of a target was killed.
"""

import sys
from collections import Counter, defaultdict

import pytest
from hypothesis import Phase, settings

EXAMPLES = 40
"""Of a property; a survivor is met with all of its tests, a thousand times over."""

LEAST = 0.85
TARGETS = ("annotations", "occlusion", "model.losses", "model.targets")

settings.register_profile("mutants", derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])


def pytest_configure() -> None:
    settings.load_profile("mutants")


@pytest.hookimpl(trylast=True)  # after hypothesis has marked its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of properties come last, and look at few examples."""
    items.sort(key=lambda item: item.get_closest_marker("hypothesis") is not None)
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("hypothesis"):
            wanted = item.obj._hypothesis_internal_use_settings
            item.obj._hypothesis_internal_use_settings = settings(wanted, max_examples=EXAMPLES)


def main() -> None:
    """Print a table of the modules and targets; a mutant that never ends is killed too."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for line in sys.stdin:
        name, _, status = line.strip().rpartition(": ")
        module = name.rpartition(".")[0].removeprefix("bcnet_core.")
        for group in (module, *(target for target in TARGETS if module.startswith(f"{target}."))):
            found[group][status] += 1
    lines = [f"{'':32}{'mutants':>8}{'killed':>8}{'timeout':>8}{'survived':>9}{'killed':>9}"]
    for group, counts in sorted(found.items()):
        dead = counts["killed"] + counts["timeout"]
        row = (counts.total(), counts["killed"], counts["timeout"], counts.total() - dead)
        lines.append("{:32}{:8,}{:8,}{:8,}{:9,}{:9.1%}".format(group, *row, dead / counts.total()))
        if group in TARGETS and dead < LEAST * counts.total():
            lines[-1] += f"  less than {LEAST:.0%}"
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(any("less than" in line for line in lines) or not set(TARGETS) <= set(found))


if __name__ == "__main__":
    main()
