"""Tables of `bcnet eval`."""

import pytest

from bcnet_cli.score_tables import print_comparison
from bcnet_core.evaluation.compare import Comparison


def test_a_row_without_values_shows_none(capsys: pytest.CaptureFixture[str]) -> None:
    nothing, equal, better = Comparison(-1, -1, 0, 0), Comparison(0.5, 0.5, -0.1, 0.1), Comparison(0.5, 0.6, 0.05, 0.2)
    print_comparison({"empty": nothing, "all": equal}, ("a.json", "b.json"), "table", 10)
    shown = capsys.readouterr().out
    (row,) = [line for line in shown.splitlines() if "empty" in line]
    assert [cell.strip() for cell in row.split("│")[2:6]] == ["-", "-", "-", "-"]
    assert "+0.00" in shown and "excludes 0" not in shown
    print_comparison({"all": better}, ("a.json", "b.json"), "table", 10)
    assert "* the interval excludes 0" in capsys.readouterr().out
