"""How long the trainings of a sweep will still take, by hand, and when nothing will change any more."""

import time

import pytest

from sparsepo.monitor.progress import left_of, makespan
from sparsepo.monitor.run_state import Run, State

A, B, C = (f"dpo/beta~{beta}/seed~0" for beta in ("0.1", "0.2", "0.3"))
D = "simpo/beta~2.0/seed~0"


def lefts(sweep, now, **how):
    (task,) = sweep.look(now, **how).tasks
    return dict(zip((run.name for run in task.runs), task.lefts, strict=True))


def test_a_run_goes_on_at_its_own_pace(sweep):
    """30 steps from 100 s to 160 s are 2 s each; 60 more take 120 s, 10 of which have passed at 170 s."""
    sweep.plan(A)
    sweep.trains(A, step=30, steps=90, at=160, since=100)
    assert lefts(sweep, 170, busy=[A]) == {A: 110}
    assert sweep.look(170, busy=[A]).left == 110


def test_the_pace_of_a_resumed_run_is_that_of_what_it_did_since(sweep):
    """20 steps from 100 s to 160 s are 3 s each; 60 more take 180 s."""
    sweep.plan(A)
    sweep.trains(A, step=30, steps=90, at=160, since=100)
    sweep.log(A, "resuming at step 10 from results/checkpoint-10\nstep 12/90 {}\n", at=160)
    assert lefts(sweep, 160, busy=[A]) == {A: 180}


def test_a_run_that_logs_nothing_more_has_got_on_by_one_interval_of_its_log_at_most(sweep):
    """2 s a step and rows every 5 steps: of the 120 s that were left, 10 s may have passed, however long it is."""
    sweep.plan(A)
    sweep.trains(A, step=30, steps=90, at=160, since=100)
    sweep.working(A, "dynamics.jsonl", '{"step": 25, "loss": 1}\n{"step": 30, "loss": 1}\n', at=160)
    assert lefts(sweep, 166, busy=[A]) == {A: 114} and lefts(sweep, 5000, busy=[A]) == {A: 110}


def test_a_step_that_takes_longer_than_expected_leaves_no_less_than_nothing(sweep):
    sweep.plan(A)
    sweep.trains(A, step=60, steps=90, at=160, since=100)
    assert lefts(sweep, 500, busy=[A]) == {A: 0}


def test_rows_of_an_earlier_attempt_are_no_pace(sweep):
    sweep.plan(A)
    sweep.trains(A, step=30, steps=90, at=160, since=300)
    assert lefts(sweep, 310, busy=[A]) == {A: None}
    assert sweep.look(310, busy=[A]).left is None


def test_a_file_system_without_locks_gives_no_pace(sweep):
    sweep.plan(A)
    sweep.trains(A, step=30, steps=90, at=160, since=100)
    sweep.working(A, "lock", "", at=100)
    assert lefts(sweep, 170, busy=[A]) == {A: None}


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


def test_before_any_run_is_done_those_that_run_tell_how_long_one_takes(sweep):
    """2 s a step and 90 steps are 180 s."""
    sweep.plan(A, B)
    sweep.trains(A, step=30, steps=90, at=160, since=100)
    assert lefts(sweep, 160, busy=[A]) == {A: 120, B: 180}
    assert sweep.look(160, busy=[A]).left == 300


def test_a_stopped_run_needs_the_rest_of_it(sweep):
    sweep.plan(A, B)
    sweep.finished(A, at=50, seconds=60)
    sweep.trains(B, step=30, steps=90, at=-5, since=-60)
    sweep.working(B, "checkpoint-30/complete.json", "{}", at=-5)
    assert lefts(sweep, 100)[B] == pytest.approx(40)


def test_a_failed_run_takes_no_more_time():
    assert left_of(Run(A, State.FAILED), [50.0], 0.0) == 0.0


def test_nothing_is_known_of_a_sweep_that_has_trained_nothing(sweep):
    sweep.plan(A, B)
    assert sweep.look(10).left is None


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
        ([A], B, {}, False),  # Snakemake lives: it may send B again, or has other jobs
        ([A], B, {"alive": False}, True),
        ([A], B, {"host": "elsewhere"}, False),
        ([A, B], None, {}, False),  # it still makes tables
        ([A, B], None, {"alive": False}, True),
        ([A, B], None, {"host": "elsewhere"}, True),
        ([A], None, {"alive": False}, True),
        ([A], None, {"alive": False, "busy": [B]}, False),
    ],
)
def test_nothing_will_change_when_nothing_trains_and_no_snakemake_can_be_there(sweep, done, fails, how, over):
    sweep.plan(A, B)
    for run in done:
        sweep.finished(run, at=50)
    if fails:
        sweep.log(fails, "error: too warm\n", at=50)
    assert sweep.look(100, **how).over is over


def test_a_sweep_whose_snakemake_said_that_it_has_ended_is_over_everywhere(sweep):
    sweep.plan(A, B, ended=90)
    sweep.log(B, "error: too warm\n", at=50)
    assert sweep.look(100).over and sweep.look(100, host="elsewhere").over


def test_scores_that_are_still_to_come_keep_a_sweep_going(sweep):
    sweep.plan(done=[A], scores=[A])
    assert not sweep.look(100, host="elsewhere").over
    sweep.write(f"results/small/scores/{A}.json", "{}", at=50)
    assert sweep.look(100, host="elsewhere").over


def test_a_sweep_of_five_hundred_runs_is_looked_at_within_a_second_or_two(sweep):
    runs = [f"dpo/beta~{beta}/seed~{seed}" for beta in range(50) for seed in range(10)]
    sweep.plan(*runs, samples=runs, scores=runs)
    busy = sweep.half_way(runs)
    began = time.perf_counter()
    seen = sweep.look(100, busy=busy)
    assert time.perf_counter() - began < 2
    assert [seen.tasks[0].count(state) for state in State] == [300, 50, 100, 0, 50]
    assert seen.left == 230  # 50 places are free after 120 - 10 s, then take two rounds of 60 s
