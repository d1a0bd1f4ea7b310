"""The plan that a start of the workflow writes down for those who watch it, and who must not write one."""

import socket

import pytest

from sparsepo.monitor.job_state import Machine
from sparsepo.monitor.plan_file import read_plan
from sparsepo.monitor.sweep import read_sweep

DPO, SPARSE = "dpo/beta~0.1/seed~0", "sparsepo_common/beta~0.5/seed~0"

pytestmark = pytest.mark.timeout(900)


def seen(folder):
    return read_sweep(folder / "results", read_plan(folder / "results"), Machine())


def test_a_run_writes_down_what_it_makes_and_that_it_has_ended(original):
    plan = read_plan(original / "results")
    runs = {DPO: True, SPARSE: True}
    every = {"sft": True} | runs
    assert plan.tasks == {
        "small": {
            "prepare_data": {"": True},
            "train_sft": {"": True},
            "build_preferences": {"": True},
            "cache_reference": {"states": True},
            "train_policy": runs,
            "sample_responses": every,
            "evaluate_run": every,
        }
    }
    assert list(plan.tasks["small"]["train_policy"]) == list(runs)
    assert (plan.configs, plan.host, plan.local) == (["tiny"], socket.gethostname(), True)
    assert 10 < plan.ended - plan.started < 900


def test_a_finished_run_is_seen_as_done_and_over(original):
    sweep = seen(original)
    (task,) = sweep.tasks
    assert sweep.is_over and [run.state for run in task.runs] == ["done", "done"]
    assert all(stage.done == stage.total for stage in task.stages) and len(task.stages) == 6


def test_whatever_starts_no_run_of_the_whole_leaves_the_plan_alone(finished, snakemake):
    """A dry run, the linter, a touch, nothing to do, and the Snakemake that a job of a cluster is."""
    plan = finished / "results/plan.json"
    plan.write_text("untouched")
    table = "results/tables/small.csv"
    job = ("--mode", "remote", "--force", "--nolock", "--allowed-rules", "compare_methods", "--cores", "1", table)
    for arguments in (["-n", "--forceall"], ["--lint"], ["--touch", "--cores", "1"], ["--cores", "1"], job):
        before = (finished / table).stat().st_mtime_ns
        done = snakemake(finished, *arguments)
        assert done.returncode == 0, done.stdout
        assert plan.read_text() == "untouched", arguments
    assert (finished / table).stat().st_mtime_ns > before, "the job has run"


def test_what_is_up_to_date_is_done_before_a_second_start_makes_anything(finished, snakemake):
    """The DPO run is trained again, and fails at once as its pairs are broken; the other run stays as it is."""
    code = finished / "workflow_scripts/train_policy.py"
    text = code.read_text().replace("    trainer.train()\n", "    raise UserError('a reason')\n")
    code.write_text(text.replace("import time\n", "import time\nfrom sparsepo.runtime.errors import UserError\n", 1))
    failed = snakemake(finished, "--cores", "1", "--force", f"results/small/runs/{DPO}/run.json")
    assert failed.returncode == 1 and "error: a reason" in failed.stdout
    plan = read_plan(finished / "results")
    assert plan.tasks["small"]["train_policy"] == {DPO: True} and plan.ended is not None
    assert plan.tasks["small"]["train_sft"] == {"": False}
    sweep = seen(finished)
    (run,) = sweep.tasks[0].runs
    assert (run.state, run.error, sweep.is_over) == ("failed", "a reason", True)


def test_a_target_without_trainings_plans_none(unfinished, snakemake):
    done = snakemake(unfinished, "--cores", "1", "data")
    assert done.returncode == 0, done.stdout
    assert read_plan(unfinished / "results").tasks == {"small": {"prepare_data": {"": True}}}
