"""How long the trainings of a sweep will still take, by hand, and when nothing will change any more."""

import time

import pytest

from sparsepo.monitor.job_state import State
from sparsepo.monitor.sweep import makespan, run_seconds
from sparsepo.runtime.status import Status

A, B, C = (f"dpo/beta~{beta}/seed~0" for beta in ("0.1", "0.2", "0.3"))
D = "simpo/beta~2.0/seed~0"


def lefts(sweep, now, **how):
    (task,) = sweep.read(now, **how).tasks
    return {run.item: run.seconds_left for run in task.runs}


def test_a_run_says_itself_how_long_it_will_take(sweep):
    sweep.plan(A)
    sweep.trains(A, step=30, steps=90, at=160)
    assert lefts(sweep, 170) == {A: 120}
    assert sweep.read(170).seconds_left == 120


def test_before_its_first_step_nothing_is_known(sweep):
    sweep.plan(A)
    sweep.trains(A, step=30, steps=90, at=160, pace=None)  # it resumes
    assert lefts(sweep, 160) == {A: None} and sweep.read(160).seconds_left is None


def test_what_waits_takes_as_long_as_done_runs_of_its_method_or_of_any(sweep):
    """dpo took 40 s and 60 s, simpo has no run that is done: 50 s either way; then simpo took 200 s itself."""
    sweep.plan(A, B, C, D)
    sweep.finished(A, at=50, seconds=40)
    sweep.finished(B, at=50, seconds=60)
    assert lefts(sweep, 100) == {A: 0, B: 0, C: 50, D: 50}
    other = D.replace("seed~0", "seed~1")
    sweep.plan(A, B, C, D, done=[other])
    sweep.finished(other, at=-50, seconds=200)
    assert lefts(sweep, 100) == {other: 0, A: 0, B: 0, C: 50, D: 200}


def test_those_that_run_tell_how_long_one_takes(sweep):
    """2 s a step and 90 steps are 180 s."""
    sweep.plan(A, B)
    sweep.trains(A, step=30, steps=90, at=160)
    assert lefts(sweep, 160) == {A: 120, B: 180}
    assert sweep.read(160).seconds_left == 300


def test_an_attempt_that_resumed_counts_as_all_of_its_steps():
    """It took 20 s of 40 steps; at that pace, 90 steps take 45 s."""
    resumed = Status("finished", started=100, updated=120, step=90, steps=90, seconds_per_step=0.5, seconds_left=0)
    assert run_seconds(resumed) == 45
    assert run_seconds(Status("finished", started=100, updated=160)) == 60
    assert run_seconds(Status("failed", started=100, updated=160)) is run_seconds(None) is None


def test_a_stopped_run_needs_the_rest_of_it(sweep):
    sweep.plan(A, B)
    sweep.finished(A, at=50, seconds=60)
    sweep.trains(B, step=30, steps=90, at=-5)
    assert lefts(sweep, 100, working=False)[B] == pytest.approx(40)


def test_a_run_that_is_made_again_needs_all_of_its_time_and_a_failed_one_none(sweep):
    sweep.plan(A, B, C)
    sweep.finished(A, at=50, seconds=60)
    sweep.trains(B, step=90, steps=90, at=-5, state="finished")
    sweep.failed(C, "too warm", at=50)
    assert lefts(sweep, 100) == {A: 0, B: 60, C: 0}


def test_nothing_is_known_of_a_sweep_that_has_trained_nothing(sweep):
    sweep.plan(A, B)
    assert sweep.read(10).seconds_left is None


@pytest.mark.parametrize(
    ("running", "waiting", "end"),
    [([], [], 0), ([10, 40], [20, 20], 50), ([], [20, 30], 50), ([5, 5], [10, 10, 10], 25), ([100], [], 100)],
)
def test_each_job_that_waits_begins_where_the_first_ends(running, waiting, end):
    assert makespan(running, waiting) == end


# --- over


@pytest.mark.parametrize(
    ("done", "fails", "how", "over"),
    [
        ([A], B, {}, False),  # Snakemake lives: it may start B again, or has other jobs
        ([A], B, {"alive": False}, True),
        ([A], B, {"host": "elsewhere"}, False),
        ([A, B], None, {}, False),  # it still makes tables
        ([A, B], None, {"alive": False}, True),
        ([A, B], None, {"host": "elsewhere"}, True),
        ([A], None, {"alive": False}, True),
    ],
)
def test_nothing_will_change_when_nothing_trains_and_no_snakemake_can_be_there(sweep, done, fails, how, over):
    sweep.plan(A, B)
    for run in done:
        sweep.finished(run, at=50)
    if fails:
        sweep.failed(fails, "too warm", at=50)
    assert sweep.read(100, **how).is_over is over


def test_a_run_that_goes_on_without_its_snakemake_keeps_a_sweep_from_being_over(sweep):
    sweep.plan(A)
    sweep.trains(A, step=30, steps=90, at=90)
    assert not sweep.read(100, alive=False).is_over and sweep.read(100, alive=False, working=False).is_over


def test_a_sweep_whose_snakemake_said_that_it_has_ended_is_over_everywhere(sweep):
    sweep.plan(A, B, ended=90)
    sweep.failed(B, "too warm", at=50)
    assert sweep.read(100).is_over and sweep.read(100, host="elsewhere").is_over


def test_scores_that_are_still_to_come_keep_a_sweep_going(sweep):
    sweep.plan(done=[A], evaluate_run=[A])
    assert not sweep.read(100, host="elsewhere").is_over
    sweep.status(f"evaluate_run/{A}", "finished", at=50)
    assert sweep.read(100, host="elsewhere").is_over


def test_a_sweep_of_five_hundred_runs_is_read_in_less_than_a_second_of_cpu_time(sweep):
    runs = [f"dpo/beta~{beta}/seed~{seed}" for beta in range(50) for seed in range(10)]
    sweep.plan(*runs, sample_responses=runs, evaluate_run=runs)
    sweep.half_way(runs)
    began = time.process_time()
    seen = sweep.read(100)
    assert time.process_time() - began < 1
    assert [seen.tasks[0].count(state) for state in State] == [300, 50, 100, 0, 50]
    # 300 took 60 s, 50 will have taken 120 s; 50 places are free after 60 s, then take two rounds
    assert seen.seconds_left == pytest.approx(60 + 2 * (300 * 60 + 50 * 120) / 350)
