"""What a person sees of a sweep, at 80 columns; and what the command does with what it is given."""

import io
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from sparsepo.monitor.cli import shorten, view

ROOT = Path(__file__).resolve().parents[2]
DPO = [f"dpo/beta~{beta}/seed~{seed}" for beta in ("0.1", "0.5") for seed in (0, 1)]
SPARSE = [f"sparsepo_independent/beta~{beta}-l1_d~0.001/seed~0" for beta in ("0.1", "0.5")]


def shown(seen, height=None, width=80):
    """The lines that a terminal of this size shows."""
    console = Console(width=width, file=io.StringIO(), record=True, highlight=False)
    console.print(view(seen, console, height), soft_wrap=height is None)
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.fixture
def middle(sweep):
    """A small sweep in the middle."""
    sweep.plan(*DPO, *SPARSE, train_sft=[""], sample_responses=["sft", *DPO, *SPARSE])
    sweep.status("train_sft", "finished", at=20)
    sweep.status("sample_responses/sft", "finished", at=30)
    sweep.finished(DPO[0], at=70, seconds=70)
    sweep.failed(DPO[1], "the loss is inf at step 1; the batch is in results/small/bad_batch.json", at=50)
    sweep.trains(DPO[2], step=30, steps=90, at=90, pace=1.5)
    sweep.trains(SPARSE[0], step=60, steps=90, at=90, pace=1.0, reward=0.625)
    return sweep.read(100)


def test_a_view_tells_counts_progress_reasons_and_time_left_within_80_columns(middle):
    """90 s and 30 s are left; a DPO run takes 70 or 135 s, one of SparsePO's 90 s: the last ends after 90 + 90 s."""
    assert shown(middle, height=24) == [
        "tiny: Snakemake is running (process 7 on node1), for 1 min 40 s",
        "training runs             done  running  queued  stopped  failed  of",
        "small                        1        2       2        0       1   6",
        "  dpo                        1        1       1        0       1   4",
        "  sparsepo_independent       0        1       1        0       0   2",
        "small: train_sft done; sample_responses 1 of 7",
        "running                     step  loss margin acc. reward       left",
        "dpo β=0.5, seed=0          30/90 0.500  1.250 0.75        1 min 30 s",
        "sparsepo_independent β=0.1 60/90 0.500  1.250 0.75  0.625       30 s",
        "failed",
        "dpo β=0.1, seed=1 the loss is inf at step 1; the batch is in results/small/bad_…",
        "training: about 3 min 0 s left",
    ]


def test_a_file_gets_every_error_in_full(middle):
    error = "dpo β=0.1, seed=1 the loss is inf at step 1; the batch is in results/small/bad_batch.json"
    assert error in shown(middle)


@pytest.mark.parametrize(
    ("snakemake", "line"),
    [
        ("killed", "tiny: Snakemake was killed (process 7 on node1): run snakemake --unlock, then"),
        ("ended", "tiny: Snakemake has ended (process 7 on node1); the same command makes what is"),
        ("unknown", "tiny: Snakemake started 1 min 40 s ago (process 7 on node1); whether it is"),
    ],
)
def test_a_view_says_whether_somebody_works_on_the_sweep(middle, snakemake, line):
    assert shown(replace(middle, snakemake=snakemake), height=24)[0] == line


def test_several_tasks_are_counted_apart_and_together(sweep):
    sweep.plan(*DPO, task="one")
    sweep.plan(DPO[0], task="two", done=DPO[1:])
    sweep.failed(DPO[0], "too warm", at=50, task="two")
    lines = shown(sweep.read(100), height=24)
    assert "one                          0        0       4        0       0   4" in lines
    assert "two                          3        0       0        0       1   4" in lines
    assert "in all                       3        0       4        0       1   8" in lines
    assert "two dpo β=0.1, seed=0 too warm" in lines


@pytest.fixture
def large(sweep):
    """500 runs: 300 are done, 50 failed, 50 train, 100 are queued."""
    runs = [f"dpo/beta~{beta}/seed~{seed}" for beta in range(50) for seed in range(10)]
    sweep.plan(*runs)
    sweep.half_way(runs)
    return sweep.read(100)


@pytest.mark.parametrize("height", [10, 12, 24, 50, 106])
def test_five_hundred_runs_fit_into_the_terminal_and_every_line_that_is_left_out_is_counted(large, height):
    lines = shown(large, height)
    assert len(lines) <= height
    assert "small                      300       50     100        0      50  500" in lines
    for word, count in (("running", "30/60"), ("failed", "too warm")):
        rows = [line for line in lines if count in line]
        begin = [line.split()[0] for line in lines].index(word)
        told = [line for line in lines[begin:] if line.startswith("and ")]
        assert len(rows) == 50 or told[0] == f"and {50 - len(rows)} more"


def test_a_file_gets_all_five_hundred_runs_that_run_or_failed(large):
    lines = shown(large)
    assert sum("30/60" in line for line in lines) == sum("too warm" in line for line in lines) == 50


LONG = [f"sparsepo_independent/beta~{b}-l1_d~0.001-l1_u~{u}/seed~{seed}" for b in "12" for u in "34" for seed in "56"]


@pytest.mark.parametrize(("steps", "loss", "reward"), [(5000, 0.6875, 0.75), (200_000, 1234.5, -12.345)])
def test_no_line_is_wider_than_80_columns_whatever_the_names_and_numbers_are(sweep, steps, loss, reward):
    sweep.plan(*LONG)
    for run in LONG:
        sweep.trains(run, step=steps // 2, steps=steps, at=90_000, pace=0.5, loss=loss, reward=reward)
    lines = shown(sweep.read(90_000), height=40)
    rows = [line for line in lines if line.startswith("spars")]
    assert max(map(len, lines)) <= 80 and len(rows) == 8 and all(f" {steps // 2}/{steps} " in row for row in rows)
    assert steps > 5000 or len(set(rows)) == 8


def test_a_silent_run_says_so_in_the_place_of_its_time_left(sweep):
    sweep.plan(DPO[0], host="login", local=False)
    sweep.trains(DPO[0], step=30, steps=90, at=60)
    (line,) = [line for line in shown(sweep.read(1560, host="login")) if "30/90" in line]
    assert line.endswith(" silent 25 min 0 s")


@pytest.mark.parametrize("most", range(1, 12))
def test_a_short_name_is_as_long_as_it_may_be(most):
    assert len(shorten("abcdefghij", most)) == min(10, most)
    assert shorten("abcdefghij", 10) == "abcdefghij" and shorten("abcdefghij", 7) == "ab…ghij"


# --- the command


def watch(*arguments, **how):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUTF8": "1"} | how.pop("environment", {})
    command = [sys.executable, "-c", "from sparsepo.cli.main import entry; entry()", "watch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, **how)


@pytest.mark.parametrize("options", [[], ["--once"]])
def test_without_a_terminal_the_command_prints_one_view_and_ends(sweep, options):
    sweep.plan(*DPO, host="elsewhere")
    sweep.failed(DPO[0], "too warm", at=50)
    done = watch(sweep.results, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert "small                        0        0       3        0       1   4\n" in done.stdout
    assert "dpo β=0.1, seed=0 too warm\n" in done.stdout


def test_a_wrong_folder_and_a_sweep_that_has_not_begun_are_told_in_a_sentence(sweep):
    missing = watch(sweep.folder / "nowhere")
    assert missing.returncode == 1 and missing.stdout == ""
    sentence = "no such folder; the folder of the results of a workflow is expected"
    assert missing.stderr == f"error: {sweep.folder}/nowhere: {sentence}\n"
    empty = watch(sweep.folder)
    sentence = "no such file; start the workflow first (snakemake --cores 2), or name its results/"
    assert empty.returncode == 1 and empty.stderr == f"error: {sweep.folder}/plan.json: {sentence}\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "{",
            "not valid JSON (Expecting property name enclosed in double quotes); what the workflow wrote is expected",
        ),
        ('{"tasks": []}', "not a plan of this version of sparsepo; start the workflow again"),
        ("[1]", "not a plan of this version of sparsepo; start the workflow again"),
    ],
)
def test_a_plan_that_is_none_is_told_in_a_sentence(sweep, text, sentence):
    sweep.write("results/plan.json", text, at=0)
    assert watch(sweep.results).stderr == f"error: {sweep.results}/plan.json: {sentence}\n"


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "often"])
def test_a_time_between_looks_that_is_none_is_refused(sweep, value):
    done = watch(sweep.results, "--every", value)
    assert done.returncode == 2 and "--every" in done.stderr.splitlines()[-1]


def on_a_terminal(sweep, *arguments):
    """The command on a terminal of its own: process, and the descriptor to read it at."""
    import pty

    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "TERM": "xterm", "LINES": "24", "COLUMNS": "80"}
    command = [
        sys.executable,
        "-c",
        "from sparsepo.cli.main import entry; entry()",
        "watch",
        str(sweep.results),
        *arguments,
    ]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # it may run from a job that ignores it
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, preexec_fn=heard)
    os.close(theirs)
    return process, ours


def read_until(descriptor, text, times):
    said = b""
    while said.count(text) < times:
        said += os.read(descriptor, 65536)
    return said


def rest_of(descriptor):
    said = b""
    try:
        while part := os.read(descriptor, 65536):
            said += part
    except OSError:  # how Linux tells that nobody writes any more
        pass
    return said


def test_on_a_terminal_it_is_drawn_again_until_ctrl_c_ends_it_quietly(sweep):
    sweep.plan(*DPO, host="elsewhere")
    process, screen = on_a_terminal(sweep, "--every", "0.2")
    read_until(screen, b"small  ", 3)
    process.send_signal(signal.SIGINT)
    last = rest_of(screen)
    assert process.wait(timeout=30) == 0 and b"Traceback" not in last and b"Interrupt" not in last


def test_on_a_terminal_it_ends_by_itself_when_all_is_done(sweep):
    sweep.plan(*DPO, host="elsewhere")
    process, screen = on_a_terminal(sweep, "--every", "0.2")
    read_until(screen, b"small  ", 2)
    for run in DPO:
        sweep.finished(run, at=50)
    assert b"Traceback" not in rest_of(screen) and process.wait(timeout=30) == 0
