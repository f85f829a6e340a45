"""Progress of a running task, on a terminal and elsewhere."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from bcnet_cli import console
from bcnet_cli.reporter import ConsoleReporter

VALUES = {"step": "20", "loss": "3.141", "images/s": "38.2", "data wait": "0.4%", "memory": "1.1 GB", "left": "3 min"}


def shown(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> StringIO:
    printed = StringIO()
    monkeypatch.setattr(console, "err", Console(file=printed, force_terminal=terminal, width=120, height=30))
    return printed


def test_a_terminal_shows_a_live_table_also_during_a_nested_task(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = shown(monkeypatch, terminal=True)
    reporter = ConsoleReporter()
    with reporter.progress("training", 100) as training:
        training.advance(20, values=VALUES)
        with reporter.progress("predicting", 5) as predicting:
            predicting.advance(5, note="almost")
            assert reporter._bars is not None
            frame = Console(file=StringIO(), width=120)
            frame.print(reporter._bars.get_renderable())
            drawn = frame.file.getvalue()  # type: ignore[attr-defined]
        training.advance(80)
    assert "training" in drawn and "20/100" in drawn and "predicting" in drawn and "almost" in drawn
    assert all(name in drawn and value in drawn for name, value in VALUES.items())
    assert reporter._bars is None and "training" in printed.getvalue()


def test_without_a_terminal_values_are_a_plain_line(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = shown(monkeypatch, terminal=False)
    with ConsoleReporter().progress("training", 2) as training:
        training.advance(values=VALUES)
        training.advance(values={"step": "2", "loss": "2.718"})
    (line,) = printed.getvalue().splitlines()
    assert line.startswith("training 2/2  step 2  loss 2.718  done in")
