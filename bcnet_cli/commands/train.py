"""`bcnet train`: from a recipe, or a config of detectron2, to a run directory."""

from __future__ import annotations

import shlex
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bcnet_cli import console
from bcnet_cli.options import COMPUTE, BackendName, DataRoot, Device, Gpus, backend_option, check_unused_options
from bcnet_cli.recipe_choice import choose_recipe
from bcnet_cli.reporter import ConsoleReporter

if TYPE_CHECKING:
    from bcnet_core.config.choices import Backend
    from bcnet_core.config.schema import Recipe
    from bcnet_core.engine.elastic import Cluster
    from bcnet_core.engine.state import RunOptions, TrainingJob

_run = partial(typer.Option, rich_help_panel="Run", show_default=False)
_compute = partial(typer.Option, rich_help_panel=COMPUTE)
_check = partial(typer.Option, rich_help_panel="Before training")
RecipeArgument = Annotated[
    str | None,
    typer.Argument(help="Name of a recipe, or a yaml file; none: one for your own photos.", show_default=False),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings that override the recipe's.", show_default=False),
]
RunDir = Annotated[Path | None, _run("--run-dir", help="Folder of the run; default runs/RECIPE-TIME.")]
Resume = Annotated[bool, _run("--resume", help="Resume the run in --run-dir.")]
InitFrom = Annotated[
    str | None,
    _run("--init-from", metavar="SOURCE", help="Start from these weights: a run, a file, a URL, or a name of "
         "`bcnet weights list`; default model.init."),
]  # fmt: skip
Config = Annotated[Path | None, _run("--d2-config", help="Train this yaml config of detectron2, not a recipe.")]
Events = Annotated[bool, _run("--tensorboard", help="Write TensorBoard's event files, with pictures of both layers.")]
Nodes = Annotated[int, _compute("--nnodes", min=1, help="Machines that train together; run the command on each.")]
Endpoint = Annotated[
    str | None,
    _compute("--rdzv-endpoint", metavar="HOST:PORT", help="Where the machines meet: a free port of one of them."),
]
Restarts = Annotated[int, _compute("--max-restarts", min=0, help="How often to restart when a process dies.")]
DryRun = Annotated[bool, _check("--dry-run", help="Check recipe and data, say what would be trained; write nothing.")]
Smoke = Annotated[bool, _check("--smoke", help="Rehearse: two real steps and a batch of evaluation; write nothing.")]
ScanImages = Annotated[bool, _check("--scan-images", help="Open every image first; name the unusable ones.")]
ScanWorkers = Annotated[int, _check("--workers", min=0, help="Processes of --scan-images; 0: one per CPU core.")]


def train(
    context: typer.Context,
    recipe: RecipeArgument = None,
    overrides: Overrides = None,
    *,
    data_root: DataRoot = None,
    run_dir: RunDir = None,
    resume: Resume = False,
    init_from: InitFrom = None,
    d2_config: Config = None,
    tensorboard: Events = False,
    gpus: Gpus = 1,
    device: Device = "auto",
    backend: BackendName = "torchvision",
    nnodes: Nodes = 1,
    rdzv_endpoint: Endpoint = None,
    max_restarts: Restarts = 0,
    dry_run: DryRun = False,
    smoke: Smoke = False,
    scan_images: ScanImages = False,
    workers: ScanWorkers = 0,
) -> None:
    """Train a bilayer detector.

    Without a recipe it is `own_rcnn` on a GPU and `own_light` on a CPU, made for photos of your own.

    With --d2-config every KEY=VALUE is a setting of that config, and the COCO sets of --data-root replace its own.

    **Examples**

    `bcnet train --data-root mine`

    `bcnet train tiny --data-root coco --run-dir runs/tiny`

    `bcnet train tiny --data-root coco --gpus 2 --device cpu solver.steps=100 model.occluder_sampling=nonempty`

    `bcnet train --backend detectron2 --d2-config rcnn.yaml --data-root coco MODEL.ROI_HEADS.NAME=BilayerROIHeads`
    """
    from bcnet_core import backends
    from bcnet_core.config.load import load_recipe
    from bcnet_core.engine.elastic import Cluster
    from bcnet_core.engine.state import RunOptions, TrainingJob
    from bcnet_core.errors import usage_error
    from bcnet_core.evaluation.validation import VALIDATION

    if d2_config is not None:
        check_unused_options(context, "scan_images", "workers", why="with --d2-config")
    if not scan_images:
        check_unused_options(context, "workers", why="without --scan-images; the data loader's are data.workers")
    if resume and run_dir is None:
        raise usage_error("--resume needs the run to resume", "name it: --run-dir runs/NAME")
    library, cluster = backends.require_backend(backend), Cluster(gpus, nnodes, rdzv_endpoint, max_restarts)
    _check_backend(library, d2_config, tensorboard=tensorboard, smoke=smoke)
    words = [*([recipe] if recipe else []), *(overrides or [])]
    if d2_config is not None:
        where = run_dir or _new_run_dir(d2_config)
        command = _command("--backend", library, "--d2-config", str(d2_config), *words, gpus=gpus,
                           data_root=data_root, device=device)  # fmt: skip
        options = RunOptions(where, device, gpus, command, resume, init_from)
        _train_config(d2_config, words, options, cluster, data_root=data_root, dry_run=dry_run)
        return
    chosen = choose_recipe(words, device=device, resumed=run_dir if resume else None)
    if chosen.note:
        ConsoleReporter().info(chosen.note)
    words, where = [chosen.name, *chosen.overrides], run_dir or _new_run_dir(Path(chosen.name))
    command = _command(*words, gpus=gpus, data_root=data_root, device=device) + backend_option(library)
    settings = load_recipe(chosen.name, chosen.overrides, data_root=data_root.resolve() if data_root else None)
    job = TrainingJob(settings, where, device, command, resume, init_from, VALIDATION, tensorboard)
    _check_job(job, cluster, library, named_run_dir=run_dir is not None)
    if scan_images:
        _scan(job.recipe, workers)
    if dry_run:
        _describe(job, cluster, library)
    elif smoke:
        _rehearse(job, cluster)
    else:
        checkpoint = backends.train(job, cluster, backend=library, reporter=ConsoleReporter())
        then = f"bcnet eval {shlex.quote(str(_best(job.run_dir)))}{backend_option(library)}"
        console.show_outputs(*_written(job, checkpoint), then=then)


def _new_run_dir(recipe: Path) -> Path:
    return Path("runs") / f"{recipe.stem}-{datetime.now():%Y%m%d-%H%M%S}"


def _command(*words: str, gpus: int, data_root: Path | None, device: str) -> str:
    """Return the command line without the run directory, for messages that say how to resume."""
    options = ["--data-root", str(data_root)] if data_root else []
    options += ["--gpus", str(gpus)] if gpus > 1 else []
    options += ["--device", device] if device != "auto" else []
    return shlex.join(["bcnet", "train", *words, *options])


def _check_backend(library: Backend, d2_config: Path | None, *, tensorboard: bool, smoke: bool) -> None:
    """Reject options that the chosen backend does not have."""
    from bcnet_core.errors import usage_error

    if library == "torchvision" and d2_config is not None:
        raise usage_error("--d2-config is a config of detectron2", "add --backend detectron2")
    if library == "detectron2" and tensorboard:
        raise usage_error("detectron2 always writes TensorBoard's event files", "leave --tensorboard out")
    if library == "detectron2" and smoke:
        raise usage_error("--smoke rehearses the torchvision backend", "rehearse with a few steps: solver.steps=2")


def _check_job(job: TrainingJob, cluster: Cluster, library: Backend, *, named_run_dir: bool) -> None:
    """Reject contradictions and an occupied run directory before any data is read."""
    from bcnet_core.engine.launch import check_cluster
    from bcnet_core.errors import usage_error
    from bcnet_core.model.backbones import freezes_norm

    check_cluster(job, cluster)
    if cluster.nodes > 1 and not named_run_dir:
        raise usage_error(
            "several machines need one run directory that all of them see", "name it: --run-dir /shared/runs/NAME"
        )
    _check_run_dir(job, library, start=job.init)
    model = job.recipe.model
    if freezes_norm(model) and not job.resume and job.init is None:
        ConsoleReporter().warning(
            f"the backbone {model.backbone} starts from random weights, which diverge under its frozen BatchNorm; "
            "start from published ones: --init-from NAME (names: bcnet weights list), or train it: "
            "model.frozen_norm=false model.frozen_stages=0"
        )


def _check_run_dir(run: TrainingJob | RunOptions, library: Backend, *, start: str | None) -> None:
    """Check that the run directory is free, or can be resumed, and that the weights to start from exist."""
    from bcnet_core.backends import find_weights
    from bcnet_core.engine.run_dir import require_free_run_dir
    from bcnet_core.errors import usage_error
    from bcnet_core.weights.starts import find_source

    if run.resume and run.init_from is not None:
        raise usage_error(
            "--resume and --init-from exclude each other", "--resume continues a run, --init-from starts a new one"
        )
    if run.resume:
        find_weights(run.run_dir, library)
    else:
        require_free_run_dir(run.run_dir, run.command)
    if start is not None and (found := find_source(start)).url is None:
        find_weights(found.path, library)


def _scan(recipe: Recipe, workers: int) -> None:
    """Open every image of the training set, and of the validation set if it exists."""
    from bcnet_core.data.loaders import read_annotations, scan_images

    data = recipe.data
    sets = [data.train]
    if recipe.solver.evaluates or all(path.exists() for path in data.locate(data.val)):
        sets.append(data.val)
    for dataset in sets:
        coco = read_annotations(data, dataset, need_annotations=dataset is data.train, check_annotations=False)
        scan_images(coco, data.locate(dataset)[1], workers=workers, reporter=ConsoleReporter())
        console.err.print(
            f"{len(coco.images):,} images of {dataset.annotations} can be read and have the size that the file says"
        )


def _describe(job: TrainingJob, cluster: Cluster, library: Backend) -> None:
    """Print the resolved recipe, or its detectron2 config, on stdout; what would be trained on stderr."""
    from bcnet_core.backends import detectron2_config
    from bcnet_core.config.load import dump_recipe
    from bcnet_core.distributed import choose_device
    from bcnet_core.engine.estimate import estimate_memory
    from bcnet_core.engine.launch import open_data
    from bcnet_core.weights.starts import describe_start, preview_start

    device = choose_device(job.device)
    _, coco, recipe = open_data(job.recipe, job.validation, device, ConsoleReporter())
    if job.init is not None and library == "torchvision":
        preview_start(job.init, recipe, coco.categories, ConsoleReporter())
    elif job.init is not None:
        console.err.print(describe_start(job.init))
    classes = len(coco.categories)
    text = dump_recipe(recipe) if library == "torchvision" else detectron2_config(recipe, num_classes=classes)
    console.out.print(text, end="")
    processes = cluster.processes * cluster.nodes
    needed = estimate_memory(recipe, num_classes=classes, processes=processes)
    console.err.print(
        f"about {sum(needed) / 1e9:.1f} GB of memory in each process, beside some 1 GB for PyTorch itself; "
        f"processes: {processes}"
    )
    console.err.print(f"{classes} classes; would write {job.run_dir}")


def _rehearse(job: TrainingJob, cluster: Cluster) -> None:
    from bcnet_core.evaluation.validation import rehearse

    rehearse(job, cluster, reporter=ConsoleReporter())
    console.err.print("the rehearsal went well: two steps and a batch of evaluation; nothing was written")
    console.show_outputs(then=job.command)


def _train_config(
    config: Path,
    overrides: list[str],
    options: RunOptions,
    cluster: Cluster,
    *,
    data_root: Path | None,
    dry_run: bool,
) -> None:
    """Train a user's own config of detectron2, or print it."""
    from bcnet_core import backends
    from bcnet_core.weights.starts import describe_start

    run_dir = options.run_dir
    _check_run_dir(options, "detectron2", start=options.init_from)
    root = None if data_root is None else data_root.resolve()
    if dry_run:
        plan = backends.merged_config(config, overrides, root, reporter=ConsoleReporter())
        console.out.print(plan, end="")
        if options.init_from is not None:
            console.err.print(describe_start(options.init_from))
        console.err.print(f"would write {run_dir}")
        return
    checkpoint = backends.train_config(config, overrides, root, options, cluster, reporter=ConsoleReporter())
    console.show_outputs(checkpoint, then=f"bcnet eval {shlex.quote(str(run_dir))} --backend detectron2")


def _best(run_dir: Path) -> Path:
    """Return the best checkpoint of a run that has one; else the run, which stands for its latest."""
    from bcnet_core.weights.checkpoint import best_path

    best = best_path(run_dir)
    return best if best.exists() else run_dir


def _written(job: TrainingJob, checkpoint: Path) -> list[Path]:
    """List the main results of a run: its last and its best checkpoint, and its curves."""
    from bcnet_core.engine.run_dir import CURVES_FILE
    from bcnet_core.weights.checkpoint import best_path

    return [path for path in (checkpoint, best_path(job.run_dir), job.run_dir / CURVES_FILE) if path.exists()]
