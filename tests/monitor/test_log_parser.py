"""What is read of files that somebody still writes."""

import pytest

from sparsepo.monitor.log_parser import PART, Log, read_log, read_rows

TRACE = """\
Traceback (most recent call last):
  File "train.py", line 9, in <module>
    main()
    ^^^^^^
"""
STEP = 'step 12/40 {"loss": 0.5}\n'


@pytest.fixture
def logged(tmp_path):
    """The log of a job that printed this."""

    def read(text):
        (tmp_path / "log").write_text(text)
        return read_log(tmp_path / "log")

    return read


def test_a_log_tells_the_steps_of_the_whole_training_and_where_it_began(logged):
    log = logged(f"resuming at step 8 from results/checkpoint-8\n{STEP}step 16/40 {{}}\nresponses sampled: 8\n")
    assert (log.resumed, log.steps, log.error, log.last) == (8, 40, "", "responses sampled: 8")


def test_a_job_that_has_said_nothing_and_a_log_that_is_not_there_are_empty(logged, tmp_path):
    assert logged("") == read_log(tmp_path / "none") == read_log(tmp_path) == Log()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (STEP + "error: the loss is nan at step 13; the batch is in bad_batch.json\n", "the loss is nan at step 13;"),
        ("train.py: error: argument --seed: invalid\n", "argument --seed: invalid"),
        (STEP + TRACE + "ValueError: no such mask\n", "ValueError: no such mask"),
        (TRACE + "KeyError: 1\n\nDuring handling of it:\n\n" + TRACE + "torch.OutOfMemoryError: CUDA", "torch.OutOfM"),
        (TRACE + "RuntimeError: CUDA error: assert\nCompile with DSA to see more.\n", "RuntimeError: CUDA error: asse"),
        (TRACE + "AssertionError", "AssertionError"),
        ("error: first\nerror: second\n[rank1] leaves\n", "second"),
    ],
)
def test_the_reason_is_the_sentence_of_the_error_or_what_the_stack_trace_says(logged, text, reason):
    assert logged(text).error.startswith(reason)


@pytest.mark.parametrize(
    "text",
    [
        TRACE + "OSError: a library tried\n" + STEP,
        "error: a library says so\n" + STEP,
        TRACE,
        "no error: none at all here\nthe error: is told elsewhere\n",
        "Some weights have an error\n",
    ],
)
def test_what_stands_before_a_step_or_in_the_middle_of_a_line_is_no_end(logged, text):
    assert logged(text).error == "" and not logged(text).stopped


@pytest.mark.parametrize(
    "end", ["snakemake (process 12) has ended, and this job with it\n", TRACE + "KeyboardInterrupt\n"]
)
def test_a_job_that_somebody_ended_has_no_error(logged, end):
    log = logged(STEP + end)
    assert log.stopped and log.error == ""


def test_a_reason_is_one_printable_line_and_not_endless(logged):
    found = logged(f"error: \x1b[31mred{'x' * 5000}\n").error
    assert len(found) <= 300 and found.isprintable() and found.startswith("\\x1b[31mred")


def test_of_a_long_log_the_beginning_and_the_end_are_read(logged):
    log = logged("resuming at step 8 from here\n" + "a warning\n" * PART + STEP + "error: too warm\n")
    assert log == Log("too warm", False, 40, 8, "error: too warm")


@pytest.mark.parametrize("cut", range(1, 30))
def test_half_of_a_last_row_is_no_row(tmp_path, cut):
    (tmp_path / "rows").write_text('{"step": 1}\n' + '{"step": 2, "loss": 0.25}'[:-1][:cut])
    assert read_rows(tmp_path / "rows") == [{"step": 1}]


def test_of_many_rows_the_last_are_read_whole(tmp_path):
    (tmp_path / "rows").write_text("".join(f'{{"step": {step}, "loss": 0.5}}\n' for step in range(20_000)))
    rows = read_rows(tmp_path / "rows")
    assert 1000 < len(rows) < 20_000 and [row["step"] for row in rows] == list(range(20_000 - len(rows), 20_000))


def test_of_what_is_there_between_one_part_and_two_nothing_is_missed(tmp_path):
    lines = [f'{{"step": {step}}}' for step in range(7000)]
    (tmp_path / "rows").write_text("\n".join(lines))
    assert PART < (tmp_path / "rows").stat().st_size < 2 * PART
    assert len(read_rows(tmp_path / "rows")) == 7000
