"""What of a detector starts from trained weights, for the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bcnet_core.reporting import Reporter


@dataclass(frozen=True)
class Start:
    """Result of `load_weights`: what of a detector starts from trained weights.

    Attributes:
        placed: number of tensors that were filled, at least some of their rows.
        copied: number of those that predict whole masks and start as those that predict visible ones.
        fresh: number of the other tensors, by part of the model.
        kept_classes: names of the classes of the data whose rows were taken.
        fresh_classes: names of the other classes; like `kept_classes` empty if no class-dependent layer was filled.
        left_out: reason why a layer of the weights is not used, by its name.
        settings: settings of the weights with which their layers would fit, as a command line gives them.
    """

    placed: int
    copied: int
    fresh: dict[str, int]
    kept_classes: list[str]
    fresh_classes: list[str]
    left_out: dict[str, str]
    settings: list[str]

    def report(self, source: object, reporter: Reporter) -> None:
        """Report what starts from the weights of `source`, and as a warning which layers of them are left out."""
        total = self.placed + sum(self.fresh.values())
        text = f"starts from {source}: {self.placed} of {total} tensors"
        text += f" ({self.copied} for whole masks start as those for visible ones)" if self.copied else ""
        if self.fresh:
            text += f", the others are initialized: {', '.join(f'{part} ({n})' for part, n in self.fresh.items())}"
        if self.kept_classes:
            text += f"; classes taken by name: {_shortened(self.kept_classes)}"
            text += f"; initialized: {_shortened(self.fresh_classes)}" if self.fresh_classes else ""
        elif self.fresh_classes:
            text += f"; none of the classes is known there: {_shortened(self.fresh_classes)}"
        reporter.info(text)
        if self.left_out:
            layers = [f"{layer} ({reason})" for layer, reason in self.left_out.items()]
            way_out = f"; to keep them: {' '.join(self.settings)}" if self.settings else ""
            reporter.warning(
                f"{len(layers)} layers of {source} do not fit this model and are left out: "
                f"{_shortened(layers, most=3)}{way_out}"
            )


def _shortened(words: Sequence[str], *, most: int = 10) -> str:
    more = len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")
