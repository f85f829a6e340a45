"""`bcnet demo`: the full pipeline on synthetic scenes, through the commands that a user would type."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from bcnet_cli import console
from bcnet_cli.options import DryRun, Overwrite, reserve


def demo(
    context: typer.Context,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for all outputs.")] = Path("demo"),
    images: Annotated[int, typer.Option("--images", min=1, help="Scenes to train on.")] = 2000,
    val_images: Annotated[int, typer.Option("--val-images", min=1, help="Held-out scenes.")] = 200,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Training steps of 4 scenes.")] = 900,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Make scenes, annotate, split, train a small bilayer detector on the CPU, evaluate and draw, in a few minutes.

    **Examples**

    `bcnet demo -o demo`

    `bcnet demo -o quick --images 100 --val-images 20 --steps 50`
    """
    from bcnet_core.files.outputs import check_output_folder

    started = time.perf_counter()
    reserve(context, output, check=partial(check_output_folder, overwrite=overwrite), dry_run=dry_run)
    lines = _commands(output, images=images, val_images=val_images, steps=steps)
    if dry_run:
        console.err.print(Text("\n".join(["would run", *lines])))
        return
    if (output / "run/checkpoints").is_dir():  # of an earlier demo
        shutil.rmtree(output / "run")
    for line in lines:
        _run(context.find_root().command.main, line + (" --overwrite" if overwrite and " train " not in line else ""))
    scores = json.loads((output / "run/eval/instances_val_scores.json").read_text(encoding="utf-8"))["scores"]
    table = console.make_table(f"The demo took {time.perf_counter() - started:.0f} s", "", "mask AP, %")
    for name in ("masks", "masks, occluded split"):
        table.add_row(f"held-out scenes, {name}", f"{100 * scores[name]['AP']:.1f}")
    console.out.print()
    console.out.print(table)
    console.out.print(f"pictures  {output / 'viz/index.html'} (detected), {output / 'viz_truth/index.html'} (true)")
    console.out.print(f"numbers   {output / 'run/eval/instances_val_scores.json'}, {output / 'run/metrics.jsonl'}")
    console.out.print(f"model     {output / 'run'}")


def _commands(output: Path, *, images: int, val_images: int, steps: int) -> list[str]:
    shapes, run = shlex.quote(str(output / "shapes")), shlex.quote(str(output / "run"))
    out = shlex.quote(str(output))
    return [
        f"bcnet synth shapes -o {shapes} --images {images} --val-images {val_images}",
        f"bcnet annotate {shapes}/annotations/instances_train.json -o {shapes}/annotations/bilayer_train.json",
        f"bcnet split-occ {shapes}/annotations/instances_val.json -o {out}/occ_val.json",
        f"bcnet train demo --data-root {shapes} --device cpu --run-dir {run}"
        f" data.train.annotations=annotations/bilayer_train.json solver.steps={steps}",
        f"bcnet eval {run} --device cpu --occ",
        f"bcnet viz {run} --device cpu -o {out}/viz",
        f"bcnet viz {shapes}/annotations/instances_val.json -o {out}/viz_truth",
    ]


def _run(bcnet: Callable[..., int | None], line: str) -> None:
    """Print a command line and run it in this process, through the real parser."""
    console.err.print(Text(f"\n$ {line}", style="bold"))
    program, *arguments = shlex.split(line)
    code = bcnet(arguments, prog_name=program, standalone_mode=False)
    if code:  # typer turns an interruption into a code, which must end the demo
        raise typer.Exit(code)
