"""On a GPU everything is what it is on the CPU, but for rounding; skipped, aloud, where there is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bcnet_core import BCNetError, load_detector
from bcnet_core.config.load import load_recipe
from bcnet_core.data.loaders import open_training_set
from bcnet_core.distributed import any_process, process_group
from bcnet_core.engine.estimate import estimate_memory
from bcnet_core.engine.launch import run_training
from bcnet_core.engine.optimizer import build_optimizer
from bcnet_core.engine.state import TrainingJob, TrainingState
from bcnet_core.files.images import read_image
from bcnet_core.model.head import BilayerMaskHead
from bcnet_core.reporting import SilentReporter
from bcnet_core.weights.checkpoint import latest_checkpoint, read_checkpoint
from benchmarks.speed import model as bench
from tests.conftest import Bcnet
from tests.engine.test_loop import Collector, job, science
from tests.engine.test_training_options import gradients
from tests.model.test_parity import OFFICIAL, PARITY, head  # noqa: F401  (a fixture)
from tests.parity.rule import input_for

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.fixture(autouse=True)
def full_float32() -> Iterator[None]:
    """cuDNN would round the factors of a convolution to 10 bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def on_gpu(scenes: Path, run_dir: Path, *overrides: str, **options: bool) -> TrainingJob:
    asked = job(scenes, run_dir, *overrides, **options)
    return TrainingJob(recipe=asked.recipe, run_dir=run_dir, device="cuda", command=asked.command, resume=asked.resume)


def test_a_gpu_is_what_auto_means(untrained: Path) -> None:
    assert load_detector(untrained, device="auto").device == CUDA


def test_the_head_equals_the_official_one(head: BilayerMaskHead) -> None:  # noqa: F811
    features = torch.from_numpy(input_for("maskhead", (6, 256, 14, 14), "open")).to(CUDA)
    with np.load(PARITY / "maskhead.npz") as official, torch.no_grad():
        for prefix, tolerance in (("eval", 1e-4), ("train", 5e-4)):
            logits = head.to(CUDA).train(prefix == "train")(features)
            for ours, theirs in OFFICIAL.items():
                expected = torch.from_numpy(official[f"{prefix}_{theirs}"][:, 0])
                torch.testing.assert_close(getattr(logits, ours).cpu(), expected, rtol=0, atol=tolerance)


def test_a_step_has_the_losses_and_gradients_of_the_cpu(scenes: Path, tmp_path: Path) -> None:
    asked = job(scenes, tmp_path, "solver.batch_size=4")
    dataset, coco = open_training_set(asked.recipe)
    samples = [dataset[position, position] for position in range(4)]
    here, there = (TrainingState(asked, coco.categories, device) for device in (CPU, CUDA))
    expected, losses = here.backward(samples), there.backward(samples)
    assert losses.keys() == expected.keys()
    for name, loss in losses.items():
        assert loss.device == CUDA
        assert loss.item() == pytest.approx(expected[name].item(), rel=1e-4), name
    difference = gradients(there).cpu() - gradients(here)
    assert difference.norm() < 1e-3 * gradients(here).norm()


@pytest.mark.parametrize("detector", ["fcos", "faster_rcnn"])
def test_what_is_found_is_what_the_cpu_finds(scenes: Path, tmp_path: Path, detector: str) -> None:
    from bcnet_core.annotations.coco import read_coco
    from bcnet_core.model.detectors import build_detector
    from bcnet_core.weights.checkpoint import Checkpoint, save_checkpoint

    coco = read_coco(scenes / "annotations/instances_val.json")
    asked = [f"model.detector={detector}", "model.channels=32", "model.score_threshold=0"]
    recipe = load_recipe("shapes", asked, data_root=scenes)
    model = build_detector(recipe, coco.categories).state_dict()
    path = tmp_path / "model.pt"
    save_checkpoint(path, Checkpoint(1, recipe.model_dump(mode="json"), coco.categories, model, {}))
    pictures = [read_image(scenes / "val" / image["file_name"]) for image in coco.images[:3]]
    here, there = (load_detector(path, device=name).predict(pictures) for name in ("cpu", "cuda"))
    for expected, found in zip(here, there, strict=True):
        assert len(found.scores) == len(expected.scores) > 10
        torch.testing.assert_close(found.scores.cpu(), expected.scores, rtol=1e-3, atol=1e-5)
        agreeing = (found.boxes.cpu() - expected.boxes).abs().amax(1) < 0.05  # equal scores may change places
        assert agreeing.float().mean() > 0.9
        one, other = (drawn(masks) for masks in (found.rles, expected.rles))
        assert (one[agreeing] != other[agreeing]).mean() < 1e-3


def drawn(rles: list[dict[str, object]]) -> NDArray[np.bool_]:
    from bcnet_core import masks

    return np.stack([masks.decode(rle) for rle in rles])


@pytest.mark.parametrize(
    "setting",
    ["solver.precision=fp32", "solver.precision=bf16", "solver.precision=fp16", "model.channels_last=false",
     "model.detector=faster_rcnn", "solver.ema=0.9", "solver.accumulate=2"],
)  # fmt: skip
def test_training_lowers_the_loss(scenes: Path, tmp_path: Path, setting: str) -> None:
    reporter = Collector()
    run_training(on_gpu(scenes, tmp_path / "run", "solver.steps=60", setting), reporter)
    losses = [row["loss"] for row in science(tmp_path / "run")]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    environment = json.loads((tmp_path / "run/env.json").read_text())
    assert environment["device"] == torch.cuda.get_device_name(0)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert 0.01 < rows[-1]["speed"]["memory_gb"] < 20
    load_detector(tmp_path / "run", device="cpu")


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores.*available but not enabled:UserWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_compiled_layers_train(scenes: Path, tmp_path: Path) -> None:
    run_training(on_gpu(scenes, tmp_path / "plain", "solver.steps=4"), SilentReporter())
    run_training(on_gpu(scenes, tmp_path / "compiled", "solver.steps=4", "solver.compile=true"), SilentReporter())
    plain, compiled = ([row["loss"] for row in science(tmp_path / name)] for name in ("plain", "compiled"))
    assert compiled == pytest.approx(plain, rel=0.01)


def test_a_run_goes_on_on_a_gpu_and_on_the_cpu(scenes: Path, tmp_path: Path) -> None:
    """Sums on a GPU have no fixed order, so it is the losses that agree, not the bits."""
    run_training(on_gpu(scenes, tmp_path / "whole", "solver.steps=4"), SilentReporter())
    expected = [row["loss"] for row in science(tmp_path / "whole")]
    for then in ("cuda", "cpu"):
        run_dir = tmp_path / then
        with pytest.raises(BCNetError, match="interrupted"):
            run_training(
                on_gpu(scenes, run_dir, "solver.steps=4"), Collector(lambda step: stop() if step == 1 else None)
            )
        assert read_checkpoint(latest_checkpoint(run_dir) or run_dir).step == 2
        asked = on_gpu if then == "cuda" else job
        run_training(asked(scenes, run_dir, "solver.steps=4", resume=True), SilentReporter())
        assert [row["loss"] for row in science(run_dir)] == pytest.approx(expected, rel=2e-3)


def stop() -> None:
    import signal

    signal.raise_signal(signal.SIGTERM)


def test_the_estimate_is_what_a_step_takes() -> None:
    recipe = load_recipe("tiny", ["data.min_size=480", "data.max_size=640", "model.mask_rois_per_image=64"])
    work = bench.Workload(480, 640, recipe.solver.batch_size, 64, 1, "cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    detector = bench.build_model(recipe.model, work, plain=False).to(CUDA)
    optimizer = build_optimizer(detector, recipe.solver)
    pictures, targets = bench.make_batch(work)
    for _ in range(2):
        losses = detector(pictures, [one.to(CUDA) for one in targets], list(range(work.images)))
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    taken = torch.cuda.max_memory_allocated() - before
    expected = sum(estimate_memory(recipe, num_classes=80, processes=1))
    assert expected == pytest.approx(taken, rel=0.3)


def test_auto_is_bf16_where_the_gpu_computes_in_it(scenes: Path, tmp_path: Path) -> None:
    has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    run = tmp_path / "run"
    run_training(replace(job(scenes, run, "solver.steps=2", "solver.precision=auto"), device="cuda"), SilentReporter())
    resolved = load_recipe(run / "recipe.resolved.yaml").solver.precision
    assert resolved == ("bf16" if has_bf16 else "fp16")


def test_more_gpus_than_there_are_is_a_usage_error(scenes: Path, tmp_path: Path, bcnet: Bcnet) -> None:
    asked = str(torch.cuda.device_count() + 1)
    done = bcnet("train", "shapes", "--data-root", scenes, "--run-dir", tmp_path / "run", "--gpus", asked)
    assert done.returncode == 2 and f"asked for {asked} GPUs, this machine has" in done.stderr
    assert not (tmp_path / "run").exists()


def test_nccl_carries_what_processes_tell_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "29617")
    with process_group(CUDA):
        assert torch.distributed.get_backend() == "nccl"
        numbers = torch.ones(3, device=CUDA)
        torch.distributed.all_reduce(numbers)
        assert numbers.tolist() == [1, 1, 1] and any_process([True, False], CUDA) == [True, False]


def test_the_road_from_a_shell(scenes: Path, tmp_path: Path, bcnet: Bcnet) -> None:
    run = tmp_path / "run"
    small = ("model.channels=32", "solver.steps=20", "solver.batch_size=2", "data.workers=2")
    done = bcnet("train", "shapes", "--data-root", scenes, "--run-dir", run, "--gpus", "1", *small)
    assert done.returncode == 0, done.stderr
    for command in (
        ("eval", run, "-o", tmp_path / "eval", "--data-root", scenes),
        ("predict", run, scenes / "val", "-o", tmp_path / "predicted"),
        ("viz", run, "--data-root", scenes, "-o", tmp_path / "viz"),
        ("doctor",),
    ):
        done = bcnet(*command)
        assert done.returncode == 0, (command, done.stderr)
    assert torch.cuda.get_device_name(0) in done.stdout
