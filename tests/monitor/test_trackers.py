"""Each tracker that is installed, in a mode that needs no network, with two runs open at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SEND = """
from pathlib import Path
from sparsepo.monitor.trackers import TRACKERS, TrackedRun
run = TrackedRun("0123456789abcdef", "dpo beta=0.1 seed 0", "reviews", {"beta": "0.1", "seed": 0})
other = TrackedRun("fedcba9876543210", "sft", "reviews", {})
for rows in ([(1, 0.5), (2, 0.25)], [(3, 0.125)]):
    tracker, second = (TRACKERS[%r]("small", ["a"], Path("folder")) for _ in range(2))
    tracker.start(run)
    second.start(other)
    for step, loss in rows:
        tracker.log(step, {"loss": loss})
        second.log(step, {"loss": 9.0})
    tracker.files([Path("table.md")])
    second.finish()
    tracker.finish()
"""
CURVE = [(1, 0.5), (2, 0.25), (3, 0.125)]


def send(name, folder, **environment):
    """Two sessions of one run, beside those of another, in a process of their own, as some trackers leave threads."""
    (folder / "table.md").write_text("| method |\n|---|\n| dpo |\n")
    (folder / "folder").mkdir()
    run(SEND % name, folder, **environment)


def run(code, folder, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_tensorboard_has_one_curve_and_the_table(tmp_path):
    pytest.importorskip("tensorboard")
    send("tensorboard", tmp_path)
    code = """
import json
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator("folder/tensorboard/small/reviews/dpo beta=0.1 seed 0 (012345)").Reload()
curve = [(event.step, event.value) for event in events.Scalars("loss")]
print(json.dumps([curve, events.Tags()["tensors"]]))
"""
    curve, texts = json.loads(run(code, tmp_path).splitlines()[-1])
    assert curve == [list(point) for point in CURVE]
    assert "table/text_summary" in texts


def test_mlflow_has_one_run_with_the_curve_and_the_table(tmp_path):
    pytest.importorskip("mlflow")
    where = {"MLFLOW_TRACKING_URI": f"file:{tmp_path}/mlruns", "MLFLOW_ALLOW_FILE_STORE": "true"}
    send("mlflow", tmp_path, **where)
    metrics = list(Path(tmp_path, "mlruns").glob("*/*/metrics/loss"))
    assert len(metrics) == 2
    metric = next(path for path in metrics if "dpo" in (path.parents[1] / "meta.yaml").read_text())
    points = [line.split() for line in metric.read_text().splitlines()]
    assert [(int(step), float(value)) for _, value, step, *_ in points] == CURVE
    folder = metric.parents[1]
    assert (folder / "artifacts/table.md").exists() and (folder / "params/beta").read_text() == "0.1"
    assert (folder / "tags/group").read_text() == "reviews"
    assert "dpo beta=0.1 seed 0" in (folder / "meta.yaml").read_text()


def test_wandb_offline_keeps_both_sessions_under_one_id(tmp_path):
    pytest.importorskip("wandb")
    send("wandb", tmp_path, WANDB_MODE="offline", WANDB_SILENT="true")
    files = list(Path(tmp_path, "folder/wandb").glob("offline-run-*/run-0123456789abcdef.wandb"))
    assert files and all(b"dpo beta=0.1 seed 0" in file.read_bytes() for file in files)
    assert any(b"reviews" in file.read_bytes() for file in files)


def test_trackio_has_one_run_with_the_curve(tmp_path):
    pytest.importorskip("trackio")
    where = {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    send("trackio", tmp_path, **where)
    code = """
import json
import trackio
from trackio.sqlite_storage import SQLiteStorage
curves = {}
for run in trackio.Api().runs("small"):
    curves[run.name] = [(row["step"], row["loss"]) for row in SQLiteStorage.get_logs("small", run.name)]
print(json.dumps(curves))
"""
    curves = json.loads(run(code, tmp_path, **where).splitlines()[-1])
    assert curves == {
        "dpo beta=0.1 seed 0 (012345)": [list(point) for point in CURVE],
        "sft (fedcba)": [[step, 9.0] for step, _ in CURVE],
    }
    assert list(Path(tmp_path, "trackio").rglob("table.md"))
