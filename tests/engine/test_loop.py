import json
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from bcnet_core import BCNetError
from bcnet_core.config.load import load_recipe
from bcnet_core.engine.elastic import Cluster
from bcnet_core.engine.launch import check_cluster, run_training
from bcnet_core.engine.run_dir import LOCK_FILE, exclusive_run, open_run, require_free_run_dir
from bcnet_core.engine.state import TrainingJob
from bcnet_core.model.detectors import Detector
from bcnet_core.reporting import Progress, SilentReporter
from bcnet_core.weights.checkpoint import latest_checkpoint, read_checkpoint

SMALL = ["model.channels=32", "model.tower_convs=1", "data.min_size=64", "data.max_size=64", "data.workers=0",
         "solver.batch_size=2", "solver.log_every=1", "solver.warmup_steps=2"]  # fmt: skip


class Collector(SilentReporter):
    """Collect messages, and call `on_step` after every step."""

    def __init__(self, on_step: Any = None) -> None:
        self.messages: list[str] = []
        self.notes: list[dict[str, str]] = []
        self._on_step = on_step

    def info(self, message: str) -> None:
        self.messages.append(message)

    @contextmanager
    def progress(self, title: str, total: int) -> Iterator[Progress]:
        yield self

    def advance(self, amount: int = 1, *, note: str = "", values: Mapping[str, str] | None = None) -> None:
        self.notes.append(dict(values or {}))
        if self._on_step:
            self._on_step(len(self.notes))


def science(run_dir: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl without their speeds."""
    rows = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if name != "speed"} for row in rows]


def job(scenes: Path, run_dir: Path, *overrides: str, **options: Any) -> TrainingJob:
    recipe = load_recipe("shapes", [*SMALL, *overrides], data_root=scenes)
    return TrainingJob(recipe=recipe, run_dir=run_dir, device="cpu", command="bcnet train shapes", **options)


def test_a_run_documents_itself(scenes: Path, tmp_path: Path) -> None:
    reporter = Collector()
    last = run_training(job(scenes, tmp_path / "run", "solver.steps=3"), reporter)
    assert last == tmp_path / "run/checkpoints/step_00000003.pt" and last.is_file()
    assert load_recipe(tmp_path / "run/recipe.resolved.yaml").solver.steps == 3
    environment = json.loads((tmp_path / "run/env.json").read_text())
    assert environment["torch"] == torch.__version__ and environment["processes"] == 1
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[0]["loss"] == pytest.approx(
        sum(value for name, value in rows[0].items() if name not in {"step", "loss", "lr", "speed"})
    )
    assert reporter.messages[0] == "all 58 instances train"
    assert "of the instances have an occluder, read from the file" in reporter.messages[1]
    assert len(reporter.notes) == 3 and reporter.notes[0].keys() == {
        *rows[0], "images/s", "data wait", "memory", "left",
    } - {"speed"}  # fmt: skip
    assert rows[0]["speed"].keys() == {"images_per_second", "data_wait", "memory_gb"}
    assert open_run(tmp_path / "run").checkpoint == last
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "checkpoints", "curves.png", "env.json", "metrics.jsonl", "recipe.resolved.yaml",
    ]  # fmt: skip


def test_four_steps_equal_two_a_resume_and_two_more(scenes: Path, tmp_path: Path) -> None:
    run_training(job(scenes, tmp_path / "whole", "solver.steps=4"), SilentReporter())
    stop_at_two = Collector(lambda step: signal.raise_signal(signal.SIGTERM) if step == 1 else None)
    with pytest.raises(BCNetError, match="interrupted; saved step 2 of 4") as caught:
        run_training(job(scenes, tmp_path / "parts", "solver.steps=4"), stop_at_two)
    assert caught.value.exit_code == 130
    assert caught.value.hints == (f"resume it: bcnet train shapes --run-dir {tmp_path / 'parts'} --resume",)
    run_training(job(scenes, tmp_path / "parts", "solver.steps=4", resume=True), SilentReporter())
    whole, parts = (read_checkpoint(latest_checkpoint(tmp_path / name)) for name in ("whole", "parts"))  # type: ignore[arg-type]
    assert whole.step == parts.step == 4
    assert all(torch.equal(value, parts.model[name]) for name, value in whole.model.items())
    for index, state in whole.optimizer["state"].items():
        assert all(torch.equal(value, parts.optimizer["state"][index][name]) for name, value in state.items())
    assert science(tmp_path / "whole") == science(tmp_path / "parts")


def test_a_resumed_run_keeps_its_settings_but_may_become_longer(scenes: Path, tmp_path: Path) -> None:
    run_training(job(scenes, tmp_path / "run", "solver.schedule=step", "solver.steps=1"), SilentReporter())
    with (tmp_path / "run/metrics.jsonl").open("ab") as metrics:
        metrics.write(b'{"step": 2, "lo\xff')  # as after a power cut
    longer = ("solver.schedule=step", "solver.steps=2")
    with pytest.raises(BCNetError, match="was trained with other settings") as caught:
        run_training(job(scenes, tmp_path / "run", *longer, "solver.lr=1", resume=True), SilentReporter())
    assert caught.value.exit_code == 2 and caught.value.hints[0] == "solver.lr was 0.002, now 1.0"
    run_training(job(scenes, tmp_path / "run", *longer, resume=True), SilentReporter())
    assert open_run(tmp_path / "run").recipe.solver.steps == 2
    rows = (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2]


@pytest.mark.parametrize("name", ["metrics.jsonl", "env.json", "recipe.resolved.yaml", "curves.png"])
def test_a_run_does_not_write_through_links(scenes: Path, tmp_path: Path, name: str) -> None:
    """In a downloaded folder they could lead to any file."""
    (tmp_path / "mine.txt").write_text("keep")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "mine.txt")
    with pytest.raises(BCNetError, match="is a link") as caught, exclusive_run(tmp_path / "run", None):
        pass
    assert caught.value.exit_code == 2 and (tmp_path / "mine.txt").read_text() == "keep"


def test_a_run_with_a_cosine_schedule_cannot_become_longer(scenes: Path, tmp_path: Path) -> None:
    run_training(job(scenes, tmp_path / "run", "solver.steps=1"), SilentReporter())
    with pytest.raises(BCNetError, match="was trained with other settings") as caught:
        run_training(job(scenes, tmp_path / "run", "solver.steps=2", resume=True), SilentReporter())
    assert caught.value.hints[0] == "solver.steps was 1, now 2"


def test_training_lowers_the_loss(scenes: Path, tmp_path: Path) -> None:
    run_training(job(scenes, tmp_path / "run", "solver.steps=30"), SilentReporter())
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_run_can_start_from_the_weights_of_another(scenes: Path, tmp_path: Path) -> None:
    run_training(job(scenes, tmp_path / "first", "solver.steps=2"), SilentReporter())
    run_training(
        job(scenes, tmp_path / "second", "solver.steps=1", "solver.lr=1e-12", init_from=str(tmp_path / "first")),
        SilentReporter(),
    )
    first, second = (read_checkpoint(latest_checkpoint(tmp_path / name)).model for name in ("first", "second"))  # type: ignore[arg-type]
    assert second.keys() == first.keys()
    name = "heads.roi_heads.masks.head.occludee.convs.0.weight"
    torch.testing.assert_close(second[name], first[name])


def test_a_non_finite_loss_stops_the_run_and_is_named(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Detector.forward

    def broken(self: Detector, images: Any, targets: Any, seeds: Any) -> Any:
        losses = original(self, images, targets, seeds)
        return {**losses, "box": losses["box"] * torch.nan}

    monkeypatch.setattr(Detector, "forward", broken)
    with pytest.raises(BCNetError, match=r"the loss of step 1 is not finite \(in box, image ids \[\d+, \d+\]\)"):
        run_training(job(scenes, tmp_path / "run", "solver.steps=2"), SilentReporter())
    assert not (tmp_path / "run").exists()


def test_a_failure_keeps_the_last_checkpoint(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(step: int) -> None:
        if step == 3:
            raise RuntimeError("lightning")

    with pytest.raises(RuntimeError, match="lightning"):
        run_training(job(scenes, tmp_path / "run", "solver.steps=5", "solver.checkpoint_every=2"), Collector(fail))
    assert latest_checkpoint(tmp_path / "run") == tmp_path / "run/checkpoints/step_00000002.pt"


def test_an_occupied_run_directory_is_an_error_with_two_ways_out(tmp_path: Path) -> None:
    require_free_run_dir(tmp_path, "bcnet train tiny")
    (tmp_path / "recipe.resolved.yaml").touch()  # a run without a checkpoint does not count
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / ".lock").touch()  # left by a killed run
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/.part.step_00000002.pt").touch()
    require_free_run_dir(tmp_path, "bcnet train tiny")
    (tmp_path / "checkpoints/step_00000001.pt").touch()
    with pytest.raises(BCNetError, match="is not empty") as caught:
        require_free_run_dir(tmp_path, "bcnet train tiny")
    assert caught.value.exit_code == 2
    assert caught.value.hints[0].endswith(f"bcnet train tiny --run-dir {tmp_path} --resume")
    assert f"--init-from {tmp_path}" in caught.value.hints[1]


def test_too_many_gpus_are_a_usage_error(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = job(scenes, tmp_path)
    auto = TrainingJob(recipe=one.recipe, run_dir=tmp_path, device="auto", command="bcnet train tiny")
    for gpus, words in ((0, "no GPU"), (1, "1 GPU")):
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        with pytest.raises(BCNetError, match=f"asked for 2 GPUs, this machine has {words}$") as caught:
            check_cluster(auto, Cluster(2))
        assert caught.value.exit_code == 2 and "--device cpu" in caught.value.hints[1]
    check_cluster(one, Cluster(2))
    with pytest.raises(BCNetError, match="2 images cannot be split evenly over 3"):
        check_cluster(one, Cluster(3))


def test_a_failed_start_leaves_the_folder_as_it_was(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Detector, "forward", lambda *_: 1 / 0)
    (tmp_path / "mine").mkdir()
    (tmp_path / "link").symlink_to("mine")
    for name in ("mine", "link", "new"):
        with pytest.raises(ZeroDivisionError):
            run_training(job(scenes, tmp_path / name, "solver.steps=2"), SilentReporter())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["link", "mine"]


def test_two_runs_cannot_share_a_folder(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (
        FileLock(tmp_path / "run" / LOCK_FILE),  # as another process holds it
        pytest.raises(BCNetError, match="another process is training in"),
    ):
        run_training(job(scenes, tmp_path / "run", "solver.steps=1"), SilentReporter())
    run_training(job(scenes, tmp_path / "run", "solver.steps=1"), SilentReporter())
