"""`bcnet train`: from a recipe to a run directory."""

from __future__ import annotations

import shlex
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcnet_cli import console
from bcnet_cli.commands.train_config import check_run_dir, command_line, train_config
from bcnet_cli.commands.train_validation import compare_validation, scan
from bcnet_cli.options import BackendName, DataRoot, Device, DryRun, Gpus, Workers, backend_option, refuse_unused
from bcnet_cli.reporter import ConsoleReporter

if TYPE_CHECKING:
    from bcnet_core.config.choices import Backend
    from bcnet_core.config.schema import Recipe
    from bcnet_core.engine.elastic import Cluster
    from bcnet_core.engine.job import TrainingJob


RecipeArgument = Annotated[str | None, typer.Argument(help="Name of a recipe, or a yaml file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings over the recipe's.", show_default=False),
]
RunDir = Annotated[
    Path | None,
    typer.Option("--run-dir", help="Where the run is written; default runs/RECIPE-TIME.", show_default=False),
]
Config = Annotated[
    Path | None,
    typer.Option("--d2-config", help="Train this yaml config of detectron2, not a recipe.", show_default=False),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --run-dir.")]
InitFrom = Annotated[
    Path | None,
    typer.Option("--init-from", help="Begin with the weights of this run or checkpoint.", show_default=False),
]
Nodes = Annotated[
    int, typer.Option("--nnodes", min=1, help="Machines that train together; run the command on each of them.")
]
Endpoint = Annotated[
    str | None,
    typer.Option("--rdzv-endpoint", metavar="HOST:PORT", help="Where they meet: a free port of one of them."),
]
Restarts = Annotated[
    int, typer.Option("--max-restarts", min=0, help="How often to go on by itself when a process dies.")
]
Events = Annotated[
    bool, typer.Option("--tensorboard", help="Write TensorBoard's event files, with pictures of both layers.")
]
Smoke = Annotated[
    bool, typer.Option("--smoke", help="Rehearse: two real steps and a batch of evaluation; write nothing.")
]
ScanImages = Annotated[
    bool, typer.Option("--scan-images", help="Open every image first, and name those that cannot be used.")
]


def train(
    context: typer.Context,
    recipe: RecipeArgument = None,
    overrides: Overrides = None,
    *,
    gpus: Gpus = 1,
    run_dir: RunDir = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    backend: BackendName = "torchvision",
    d2_config: Config = None,
    resume: Resume = False,
    init_from: InitFrom = None,
    nnodes: Nodes = 1,
    rdzv_endpoint: Endpoint = None,
    max_restarts: Restarts = 0,
    tensorboard: Events = False,
    smoke: Smoke = False,
    scan_images: ScanImages = False,
    workers: Workers = 0,
    dry_run: DryRun = False,
) -> None:
    """Train a bilayer detector.

    With --d2-config every KEY=VALUE is a setting of that config, and the COCO sets of --data-root replace its own.

    **Examples**

    `bcnet train tiny --data-root coco --run-dir runs/tiny`

    `bcnet train tiny --data-root coco --gpus 2 --device cpu solver.steps=100 model.occluder_sampling=nonempty`

    `bcnet train --backend detectron2 --d2-config rcnn.yaml --data-root coco MODEL.ROI_HEADS.NAME=BilayerROIHeads`
    """
    from bcnet_core import backends
    from bcnet_core.engine.elastic import Cluster
    from bcnet_core.engine.job import TrainingJob
    from bcnet_core.evaluation.validation import VALIDATION

    if d2_config is not None:
        refuse_unused(context, "scan_images", "workers", why="with --d2-config")
    if not scan_images:
        refuse_unused(context, "workers", why="without --scan-images; the loader's are data.workers")
    library, cluster = backends.named(backend), Cluster(gpus, nnodes, rdzv_endpoint, max_restarts)
    _refuse_options(library, d2_config, tensorboard=tensorboard, smoke=smoke)
    where = run_dir or Path("runs") / f"{Path(recipe or d2_config or '').stem}-{datetime.now():%Y%m%d-%H%M%S}"
    if d2_config is not None:
        words = [*([recipe] if recipe else []), *(overrides or [])]
        train_config(d2_config, words, cluster, run_dir=where, data_root=data_root, device=device, resume=resume,
                     init_from=init_from, dry_run=dry_run)  # fmt: skip
        return
    job = TrainingJob(
        recipe=_recipe(recipe, overrides or [], data_root),
        run_dir=where,
        device=device,
        command=command_line(
            recipe or "", *(overrides or []), gpus=gpus, data_root=data_root, device=device, backend=backend
        ),
        resume=resume,
        init_from=init_from,
        validation=VALIDATION,
        tensorboard=tensorboard,
    )
    _check(job, cluster, library, chosen=run_dir is not None)
    if scan_images:
        scan(job.recipe, workers)
    if dry_run:
        _describe(job, cluster, library, scanned=scan_images)
    elif smoke:
        _rehearse(job, cluster)
    else:
        checkpoint = backends.train(job, cluster, backend=library, reporter=ConsoleReporter())
        then = f"bcnet eval {shlex.quote(str(job.run_dir))}{backend_option(library)}"
        console.show_outputs(*_written(job, checkpoint), then=then)


def _recipe(name: str | None, overrides: list[str], data_root: Path | None) -> Recipe:
    from bcnet_core.config.load import load_recipe
    from bcnet_core.errors import usage_error

    if name is None:
        raise usage_error("there is nothing to train", "name a recipe; all of them: bcnet recipes list")
    return load_recipe(name, overrides, data_root=data_root.resolve() if data_root else None)


def _refuse_options(library: Backend, d2_config: Path | None, *, tensorboard: bool, smoke: bool) -> None:
    """Refuse options that the chosen backend does not have."""
    from bcnet_core.errors import usage_error

    if library == "torchvision" and d2_config is not None:
        raise usage_error("--d2-config is a config of detectron2", "add --backend detectron2")
    if library == "detectron2" and tensorboard:
        raise usage_error("detectron2 always writes TensorBoard's event files", "leave --tensorboard out")
    if library == "detectron2" and smoke:
        raise usage_error("--smoke rehearses the torchvision backend", "rehearse with a few steps: solver.steps=2")


def _check(job: TrainingJob, cluster: Cluster, library: Backend, *, chosen: bool) -> None:
    """Refuse contradictions and a run directory that is taken, before anything is read."""
    from bcnet_core.engine.launch import check_cluster
    from bcnet_core.errors import usage_error

    check_cluster(job, cluster)
    if cluster.nodes > 1 and not chosen:
        raise usage_error(
            "several machines need one run directory that all of them see", "name it: --run-dir /shared/runs/NAME"
        )
    check_run_dir(job.run_dir, job.command, library, resume=job.resume, init_from=job.init_from)
    backbone = job.recipe.model.backbone
    if backbone != "tiny" and not job.resume and job.init_from is None:
        ConsoleReporter().warning(
            f"the backbone {backbone} begins with fresh weights, which diverge under its frozen BatchNorm; "
            "begin with published ones: --init-from (bcnet weights import --help)"
        )


def _rehearse(job: TrainingJob, cluster: Cluster) -> None:
    from bcnet_core.evaluation.smoke import rehearse

    rehearse(job, cluster, reporter=ConsoleReporter())
    console.err.print("the rehearsal went well: two steps and a batch of evaluation; nothing was written")
    console.show_outputs(then=job.command)


def _describe(job: TrainingJob, cluster: Cluster, library: Backend, *, scanned: bool) -> None:
    """Print the resolved recipe, or what detectron2 makes of it, on stdout; what it would train on, on stderr.

    A scan has looked at the validation set already.
    """
    from bcnet_core.backends import detectron2_config
    from bcnet_core.config.load import dump_recipe
    from bcnet_core.data.loaders import open_training_set
    from bcnet_core.engine.estimate import estimate_memory
    from bcnet_core.engine.loop import describe
    from bcnet_core.evaluation.validation import check_validation

    recipe = job.recipe
    dataset, coco = open_training_set(recipe.data, need_occluders=recipe.trains_occluders)
    if recipe.solver.eval_every:
        check_validation(recipe, coco)
    elif not scanned:
        compare_validation(recipe, coco)
    classes = len(coco.categories)
    text = dump_recipe(recipe) if library == "torchvision" else detectron2_config(recipe, num_classes=classes)
    console.out.print(text, end="")
    describe(dataset, recipe, ConsoleReporter())
    everyone = cluster.processes * cluster.nodes
    needed = estimate_memory(recipe, num_classes=classes, processes=everyone)
    console.err.print(f"about {needed.total / 1e9:.1f} GB of memory in each process, processes: {everyone}")
    console.err.print(f"{classes} classes; would write {job.run_dir}")


def _written(job: TrainingJob, checkpoint: Path) -> list[Path]:
    """What a run ends with: its last checkpoint, its best one where it was evaluated, its curves."""
    from bcnet_core.engine.run_dir import CURVES_FILE
    from bcnet_core.weights.checkpoint import best_path

    return [path for path in (checkpoint, best_path(job.run_dir), job.run_dir / CURVES_FILE) if path.exists()]
