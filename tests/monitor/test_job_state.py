"""The state of a run, for each of the rules, in made-up folders; seconds are those since the start of Snakemake."""

import os
import subprocess
import sys

import pytest

from sparsepo.monitor.job_state import Machine

RUN, OTHER = "dpo/beta~0.1/seed~0", "dpo/beta~0.5/seed~0"


def run_of(sweep, now=100, **how):
    (run,) = sweep.read(now, **how).tasks[0].runs
    return run


def state(sweep, now=100, **how):
    return run_of(sweep, now, **how).state


# --- done and queued


def test_a_run_is_done_when_its_job_says_that_it_has_finished(sweep):
    sweep.plan(RUN)
    sweep.finished(RUN, at=50)
    assert state(sweep) == state(sweep, host="elsewhere") == "done"


def test_a_run_whose_job_wrote_no_status_is_done_when_its_output_is_there(sweep):
    sweep.plan(RUN)
    sweep.log(RUN, "", at=10)
    assert state(sweep) == "running"
    sweep.output(RUN, at=50)
    assert state(sweep) == "done"


def test_a_job_that_has_written_its_output_and_still_works_is_not_done_yet(sweep):
    sweep.plan(RUN)
    sweep.trains(RUN, step=90, steps=90, at=60)
    sweep.output(RUN, at=60)
    assert state(sweep) == "running"


def test_results_of_an_earlier_start_do_not_count_where_this_one_trains_again(sweep):
    sweep.plan(RUN)
    sweep.finished(RUN, at=-50)
    assert state(sweep) == "queued"


def test_what_a_start_does_not_make_is_done_even_where_its_files_were_deleted(sweep):
    sweep.plan(done=[RUN])
    assert state(sweep) == "done"


def test_a_run_without_a_log_is_queued(sweep):
    sweep.plan(RUN)
    assert state(sweep) == "queued"


def test_what_failed_in_an_earlier_start_is_queued_again(sweep):
    sweep.plan(RUN)
    sweep.failed(RUN, "too warm", at=-1)
    assert state(sweep) == "queued"


def test_a_status_file_that_is_cut_or_of_another_version_counts_as_none(sweep):
    sweep.plan(RUN)
    for text in ("", '{"state": "finis', '{"state": "finished"}', "[1]", "null"):
        sweep.write(f"logs/small/train_policy/{RUN}.status.json", text, at=50)
        assert state(sweep) == "queued"


# --- stopped


@pytest.mark.parametrize("said", ["running", "stopped"])
def test_a_run_that_an_earlier_start_did_not_end_is_stopped_and_tells_its_step(sweep, said):
    sweep.plan(RUN)
    sweep.trains(RUN, step=24, steps=90, at=-5, state=said)
    run = run_of(sweep, working=False)
    assert (run.state, run.status.step, run.status.steps) == ("stopped", 24, 90)


@pytest.mark.parametrize("ended", [None, 60])
def test_a_run_that_ended_with_its_snakemake_is_stopped(sweep, ended):
    sweep.plan(RUN, ended=ended)
    sweep.trains(RUN, step=3, steps=90, at=55, state="stopped")
    assert state(sweep, alive=False) == state(sweep, host="elsewhere") == "stopped"


def test_jobs_that_snakemake_cancelled_on_a_cluster_are_stopped_as_it_ends(sweep):
    sweep.plan(RUN, local=False, ended=60)
    sweep.trains(RUN, step=30, steps=90, at=59)
    assert state(sweep, now=61, working=False) == state(sweep, now=61, host="elsewhere") == "stopped"


def test_a_run_whose_snakemake_was_killed_with_it_is_stopped(sweep):
    sweep.plan(RUN)
    sweep.trains(RUN, step=30, steps=90, at=60)
    assert state(sweep, alive=False, working=False) == "stopped"


def test_a_job_that_was_starting_when_its_snakemake_was_killed_is_stopped(sweep):
    sweep.plan(RUN)
    sweep.log(RUN, "waiting for one of the GPUs 0, 1\n", at=60)
    assert state(sweep) == "running" and state(sweep, alive=False) == "stopped"


# --- failed


def test_a_failed_run_tells_its_error(sweep):
    sweep.plan(RUN)
    sweep.failed(RUN, "the loss is nan at step 4; the batch is in bad_batch.json", at=60)
    run = run_of(sweep)
    assert (run.state, run.error) == ("failed", "the loss is nan at step 4; the batch is in bad_batch.json")


def test_a_failed_run_that_is_started_again_is_running(sweep):
    sweep.plan(RUN, local=False)
    sweep.failed(RUN, "no space left on the disk", at=60)
    assert state(sweep) == "failed"
    sweep.status(f"train_policy/{RUN}", "running", at=90)
    assert state(sweep) == "running"


@pytest.mark.parametrize("ended", [None, 80])
def test_a_run_whose_process_is_gone_without_an_end_has_failed(sweep, ended):
    sweep.plan(RUN, ended=ended)
    sweep.trains(RUN, step=30, steps=90, at=60)
    sweep.log(RUN, "layout: shared\nstep 30/90\n\n", at=60)
    run = run_of(sweep, working=False)
    assert run.state == "failed"
    assert run.error == "it ended without an error message (killed, or out of memory?); its log ends: step 30/90"


def test_a_job_that_ended_before_its_first_status_tells_the_end_of_its_log(sweep):
    sweep.plan(RUN, ended=80)
    sweep.log(RUN, "Traceback (most recent call last):\nModuleNotFoundError: No module named 'peft'\n", at=60)
    run = run_of(sweep)
    assert run.state == "failed" and run.error.endswith("its log ends: ModuleNotFoundError: No module named 'peft'")


def test_another_process_with_the_same_id_is_not_the_job(sweep):
    sweep.plan(RUN)
    sweep.status(f"train_policy/{RUN}", "running", at=60, since=-200)  # process 99 began 110 s later
    assert state(sweep) == "failed"


# --- running


def test_a_process_of_this_machine_tells_that_a_run_goes_on_although_its_snakemake_has_ended(sweep):
    sweep.plan(RUN, ended=50)
    sweep.trains(RUN, step=30, steps=90, at=40)
    assert state(sweep) == "running" and state(sweep, working=False) == "failed"


def test_jobs_of_a_killed_snakemake_go_on_alone_on_a_cluster(sweep):
    sweep.plan(RUN, local=False)
    sweep.trains(RUN, step=30, steps=90, at=95)
    assert state(sweep, alive=False) == "running"
    sweep.trains(RUN, step=30, steps=90, at=95, host="node2")
    assert state(sweep, alive=False, working=False) == "running"


def test_a_run_elsewhere_is_taken_to_run_and_tells_how_long_it_is_silent(sweep):
    sweep.plan(RUN, host="login", local=False)
    sweep.trains(RUN, step=30, steps=90, at=60)
    run = run_of(sweep, now=1860, host="login")
    assert (run.state, run.silent) == ("running", 1800)


def test_a_job_that_is_starting_is_silent_since_its_log_was_written(sweep):
    sweep.plan(RUN)
    sweep.log(RUN, "", at=40)
    run = run_of(sweep)
    assert (run.state, run.status, run.silent) == ("running", None, 60)


# --- Snakemake


def test_snakemake_runs_while_its_process_does_unless_that_is_a_later_one_with_the_same_id(sweep):
    sweep.plan(RUN)
    assert sweep.read(100).snakemake == "running"
    assert sweep.read(100, alive=False).snakemake == "killed"
    assert sweep.read(100, host="elsewhere").snakemake == "unknown"
    sweep.clock -= 3600  # the process with this id was created an hour later
    sweep.plan(RUN)
    sweep.clock += 3600
    assert sweep.read(100).snakemake == "killed"
    sweep.plan(RUN, ended=90)
    assert sweep.read(100).snakemake == sweep.read(100, host="elsewhere").snakemake == "ended"


# --- other stages


def test_other_stages_count_what_is_done_by_this_start_and_tell_what_failed(sweep):
    sweep.plan(RUN, OTHER, train_sft=[""], sample_responses=["sft", RUN, OTHER])
    sweep.status("train_sft", "finished", at=20)
    sweep.write("results/small/samples/sft.jsonl", "{}", at=-20)
    sweep.write(f"results/small/samples/{RUN}.jsonl", "{}", at=20)
    sweep.status("sample_responses/sft", "failed", at=-20, error="of an earlier start")
    sweep.status(f"sample_responses/{OTHER}", "failed", at=20, error="too warm")
    sft, samples = sweep.read(100).tasks[0].stages
    assert (sft.name, sft.done, sft.total, sft.errors) == ("train_sft", 1, 1, {})
    assert (samples.name, samples.done, samples.total, samples.errors) == (
        "sample_responses",
        1,
        3,
        {OTHER: "too warm"},
    )


# --- this machine


def test_a_machine_sees_its_own_processes_until_they_end():
    here = Machine()
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        assert here.is_running(here.host, process.pid, here.now) and here.is_running(here.host, os.getpid(), here.now)
        assert not here.is_running("elsewhere", process.pid, here.now)
        assert not here.is_running(here.host, process.pid, here.now - 3600)
    finally:
        process.kill()
        process.stdin.close()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not here.is_running(here.host, process.pid, here.now), "a zombie does no work"
    process.wait()
    assert not here.is_running(here.host, process.pid, here.now)
