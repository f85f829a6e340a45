"""Composed scenes whose true layer order is known: data for demos, tests and experiments. No torch here."""
