"""Where a run stands, for each of the rules, in folders made up for it; seconds are those since the start."""

import os
import subprocess
import sys

import pytest

from sparsepo.monitor.run_state import look_around

RUN, OTHER = "dpo/beta~0.1/seed~0", "dpo/beta~0.5/seed~0"
LOCK_HERE = "process 99 on node1"


def state(sweep, now=100, **how):
    (run,) = sweep.look(now, **how).tasks[0].runs
    return run.state


def only(sweep, now=100, **how):
    (run,) = sweep.look(now, **how).tasks[0].runs
    return run


# --- done and queued


def test_a_run_is_done_when_its_record_its_weights_and_its_dynamics_lie_there(sweep):
    sweep.plan(RUN)
    sweep.log(RUN, "", at=10)
    sweep.finished(RUN, at=50)
    assert state(sweep) == "done"


@pytest.mark.parametrize("missing", ["run.json", "model.safetensors", "dynamics.jsonl"])
def test_a_run_that_lacks_one_of_them_is_not_done_yet(sweep, missing):
    sweep.plan(RUN)
    sweep.log(RUN, "", at=10)
    sweep.finished(RUN, at=50)
    (sweep.results / "small/runs" / RUN / missing).unlink()
    assert state(sweep, busy=[RUN]) == "running"


def test_results_of_an_earlier_start_do_not_count_where_this_one_trains_again(sweep):
    sweep.plan(RUN)
    sweep.log(RUN, "error: too warm\n", at=-60)
    sweep.finished(RUN, at=-50)
    assert state(sweep) == "queued"


def test_what_a_start_does_not_make_is_done_even_where_its_weights_were_deleted(sweep):
    sweep.plan(done=[RUN])
    assert state(sweep) == "done"


def test_a_run_without_a_log_is_queued(sweep):
    sweep.plan(RUN)
    assert state(sweep) == "queued"


def test_what_failed_in_an_earlier_start_is_queued_again(sweep):
    sweep.plan(RUN)
    sweep.log(RUN, "error: too warm\n", at=-1)
    sweep.working(RUN, "dynamics.jsonl", '{"step": 3, "loss": 1}\n', at=-1)
    assert state(sweep) == "queued"


# --- stopped


def test_a_run_with_a_checkpoint_of_an_earlier_start_is_stopped_and_tells_its_step(sweep):
    sweep.plan(RUN)
    sweep.trains(RUN, step=24, steps=90, at=-5, since=-60)
    sweep.working(RUN, "checkpoint-20/complete.json", "{}", at=-8)
    run = only(sweep)
    assert (run.state, run.step, run.steps) == ("stopped", 24, 90)


@pytest.mark.parametrize("end", ["snakemake (process 7) has ended, and this job with it", "KeyboardInterrupt"])
@pytest.mark.parametrize("ended", [None, 60])
def test_a_run_that_ended_with_its_snakemake_is_stopped(sweep, end, ended):
    sweep.plan(RUN, ended=ended)
    sweep.log(RUN, f"step 3/90 {{}}\n{end}\n", at=55)
    assert state(sweep, alive=False) == state(sweep, host="elsewhere") == "stopped"


def test_jobs_that_snakemake_cancelled_on_a_cluster_are_stopped_as_it_ends(sweep):
    sweep.plan(RUN, local=False, ended=60)
    sweep.trains(RUN, step=30, steps=90, at=59, since=10)
    assert state(sweep, now=61) == state(sweep, now=61, host="elsewhere") == "stopped"


def test_a_run_whose_snakemake_was_killed_with_it_is_stopped(sweep):
    sweep.plan(RUN)
    sweep.trains(RUN, step=30, steps=90, at=60, since=10)
    assert state(sweep, now=100, alive=False) == "stopped"


# --- failed


def test_a_failed_run_tells_its_reason(sweep):
    sweep.plan(RUN)
    sweep.log(RUN, "step 3/90 {}\nerror: the loss is nan at step 4; the batch is in bad_batch.json\n", at=60)
    run = only(sweep)
    assert (run.state, run.reason) == ("failed", "the loss is nan at step 4; the batch is in bad_batch.json")


def test_a_failed_run_that_is_sent_again_is_running(sweep):
    sweep.plan(RUN, local=False)
    sweep.log(RUN, "error: no space left on the disk\n", at=60)
    assert state(sweep) == "failed"
    sweep.log(RUN, "20 of 20 pairs can train; dropped: none\n", at=90)
    assert state(sweep) == "running"


@pytest.mark.parametrize("ended", [None, 80])
def test_a_run_of_this_machine_that_vanished_without_a_word_has_failed(sweep, ended):
    sweep.plan(RUN, ended=ended)
    sweep.trains(RUN, step=30, steps=90, at=60, since=10)
    run = only(sweep)
    assert run.state == "failed"
    assert run.reason.startswith('it ended without a word (killed, or out of memory?); its log ends: step 1/90 {"loss"')


def test_a_job_has_some_seconds_to_begin_and_to_end(sweep):
    sweep.plan(RUN)
    sweep.log(RUN, "", at=90)
    assert state(sweep, now=100) == "running" and state(sweep, now=106) == "failed"


def test_a_lock_of_this_machine_without_its_process_tells_that_the_job_is_gone(sweep):
    sweep.plan(RUN, host="login", local=False)
    sweep.trains(RUN, step=30, steps=90, at=60, since=10)
    assert state(sweep, host="node1") == "failed" and state(sweep, host="node11") == "running"


# --- running


def test_a_process_of_this_machine_tells_that_a_run_goes_on_whatever_else_does(sweep):
    sweep.plan(RUN, ended=50)
    sweep.log(RUN, "error: one of several processes says so\n", at=40)
    assert state(sweep, busy=[RUN]) == "running" and state(sweep, busy=[OTHER]) == "failed"


def test_jobs_of_a_killed_snakemake_go_on_alone_on_a_cluster(sweep):
    sweep.plan(RUN, local=False)
    sweep.trains(RUN, step=30, steps=90, at=95, since=10)
    assert state(sweep, host="node1", alive=False, busy=[RUN]) == "running"
    sweep.working(RUN, "lock", "process 99 on node2", at=10)
    assert state(sweep, host="node1", alive=False) == "running"


def test_a_run_elsewhere_is_taken_to_run_and_tells_how_long_it_is_silent(sweep):
    sweep.plan(RUN, host="login", local=False)
    sweep.trains(RUN, step=30, steps=90, at=60, since=10)
    run = only(sweep, now=1860, host="login")
    assert (run.state, run.silent) == ("running", 1800)
    sweep.working(RUN, "frontier.jsonl", '{"step": 30, "reward": 0.5}\n', at=1800)
    assert only(sweep, now=1860, host="login").silent == 60


def test_a_run_tells_the_numbers_of_its_last_whole_rows(sweep):
    sweep.plan(RUN)
    sweep.log(RUN, "step 1/90 {}\n", at=60)
    rows = [
        '{"step": 5, "loss": 0.75, "reward_margin": 0.5, "reward_accuracy": 0.25}',
        '{"step": 6, "loss": 0.5, "reward_margin": 1.5, "reward_accuracy": 0.75}',
        '{"step": 7, "validation_loss": 0.625, "validation_accuracy": 1.0}',
        '{"step": 8, "loss": 0.1',
    ]
    sweep.working(RUN, "dynamics.jsonl", "\n".join(rows), at=60)
    sweep.working(RUN, "frontier.jsonl", '{"step": 4, "reward": 0.25}\n{"step": 8, "rew', at=60)
    run = only(sweep, busy=[RUN])
    assert (run.step, run.steps, run.loss, run.margin, run.accuracy, run.reward) == (7, 90, 0.5, 1.5, 0.75, 0.25)


# --- Snakemake


def test_snakemake_works_while_its_process_does_unless_the_number_is_another_ones(sweep):
    sweep.plan(RUN)
    assert sweep.look(100).snakemake == "works"
    assert sweep.look(100, alive=False).snakemake == "gone"
    assert sweep.look(100, host="elsewhere").snakemake == "unknown"
    sweep.CLOCK -= 3600  # the process of this number was born an hour later
    sweep.plan(RUN)
    sweep.CLOCK += 3600
    assert sweep.look(100).snakemake == "gone"
    sweep.plan(RUN, ended=90)
    assert sweep.look(100).snakemake == sweep.look(100, host="elsewhere").snakemake == "ended"


# --- other stages


def test_other_stages_count_what_is_there_of_this_start_and_tell_what_failed(sweep):
    sweep.plan(RUN, OTHER, sft=[""], samples=["sft", RUN, OTHER])
    sweep.write("results/small/sft/run.json", "{}", at=20)
    sweep.write("results/small/samples/sft.jsonl", "{}", at=-20)
    sweep.write(f"results/small/samples/{RUN}.jsonl", "{}", at=20)
    sweep.write("logs/small/sample/sft.log", "error: of an earlier start\n", at=-20)
    sweep.write(f"logs/small/sample/{OTHER}.log", "error: too warm\n", at=20)
    sft, samples = sweep.look(100).tasks[0].parts
    assert (sft.name, sft.done, sft.of, dict(sft.failed)) == ("sft", 1, 1, {})
    assert (samples.name, samples.done, samples.of, dict(samples.failed)) == ("samples", 1, 3, {OTHER: "too warm"})


# --- this machine


def test_a_process_is_found_by_the_folder_that_it_is_told_to_train_in(tmp_path):
    """Directly, and through a shell that has it in the middle of its command."""
    sleep = f"{sys.executable} -c 'import time; time.sleep(60)'"
    commands = [
        [sys.executable, "-c", "import time; time.sleep(60)", "--checkpoint", "results/one/checkpoint"],
        ["bash", "-c", f"{sleep} --checkpoint results/two/checkpoint --out x; true"],
        [sys.executable, "-c", "import time; time.sleep(60)", "results/three/checkpoint/dynamics.jsonl"],
    ]
    (tmp_path / "scratch").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "scratch")
    started = [subprocess.Popen(command, cwd=tmp_path, start_new_session=True) for command in commands]
    try:
        here = look_around()
        assert all(process.pid in here.born for process in started) and os.getpid() in here.born
        found = {path for path in here.busy if tmp_path.resolve() in path.parents}
        assert found == {tmp_path.resolve() / "scratch" / name / "checkpoint" for name in ("one", "two")}
    finally:
        for process in started:
            os.killpg(process.pid, 9)
            process.wait()
    assert not {process.pid for process in started} & set(look_around().born)
