"""Summarize `make mutants`: the share of mutants that tests detect, by module.

Run: `mutmut results --all true | python tests/mutants.py`. Fails if less than `MIN_KILLED` of a target was killed.
"""

import sys
from collections import Counter, defaultdict

MIN_KILLED = 0.85
TARGETS = ("annotations", "model.losses")


def main() -> None:
    """Print a row per module and target; a mutant that times out counts as killed."""
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
        if group in TARGETS and dead < MIN_KILLED * counts.total():
            lines[-1] += f"  less than {MIN_KILLED:.0%}"
    sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(any("less than" in line for line in lines) or not set(TARGETS) <= set(found))


if __name__ == "__main__":
    main()
