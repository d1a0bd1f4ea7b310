"""What a person who waits is told, on a clock that the test turns by hand."""

import sys

import pytest

from sparsepo.runtime.progress import Loop, format_duration, progress


class Clock:
    """Says the time; `wait` lets it pass."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds


@pytest.fixture
def log(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)


def lines_of(capsys, costs, total, **how):
    """What is printed while each item takes its `costs` in seconds."""
    clock = Clock()
    for cost in progress(costs, total, "sampling", clock=clock, **how):
        clock.wait(cost)
    return capsys.readouterr().out.splitlines()


def test_a_log_has_a_line_every_ten_seconds_and_one_at_the_end(log, capsys):
    """Five items of 4 s: the third is done 12 s after the start, with 8 s to go; at 20 s no line is due any more."""
    assert lines_of(capsys, [4] * 5, 5) == ["sampling: 3 of 5, 8 s left", "sampling: 5 of 5 in 20 s"]


def test_what_is_left_is_what_is_missing_at_the_speed_so_far(log, capsys):
    """240 in 48 s are 5 a second; 960 more take 192 s."""
    first, *_ = lines_of(capsys, [48] * 5, 1200, size=lambda item: 240)
    assert first == "sampling: 240 of 1,200, 3 min 12 s left"


def test_a_short_loop_tells_its_end_only(log, capsys):
    assert lines_of(capsys, [0.1] * 50, 50) == ["sampling: 50 of 50 in 5 s"]


def test_an_empty_loop_divides_by_nothing(log, capsys):
    assert lines_of(capsys, [], 0) == ["sampling: 0 of 0 in 0 s"]


def test_the_items_come_through_as_they_are_and_only_when_asked_for(log, capsys):
    asked = []
    items = progress((asked.append(number) or number for number in range(9)), 9, "items")
    assert [next(items), next(items)] == asked == [0, 1]
    assert list(items) == list(range(2, 9))


def test_a_terminal_gets_a_bar_that_counts_what_items_stand_for(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    assert list(progress(["ab", "cde"], 5, "letters", size=len)) == ["ab", "cde"]
    shown = capsys.readouterr()
    assert "letters: 100%" in shown.err and "5/5" in shown.err
    assert shown.out == ""


@pytest.mark.parametrize(
    "seconds, text", [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599.7, "1 h 0 min"), (90061, "25 h 1 min")]
)
def test_a_time_is_rounded_before_it_is_split(seconds, text):
    assert format_duration(seconds) == text


# --- loops


@pytest.fixture
def told(monkeypatch):
    """What the status file is told: (phase, done, total, seconds a step, seconds left)."""
    rows = []
    monkeypatch.setattr("sparsepo.runtime.progress.update_status", lambda *row: rows.append(row))
    return rows


def test_a_loop_tells_its_pace_and_what_is_left_of_what_it_did_itself(told):
    """Resumed at step 10 of 40; 5 steps in 20 s are 4 s each, and 25 are left."""
    clock = Clock()
    loop = Loop("training", 40, done=10, clock=clock)
    clock.wait(20)
    loop.advance(15)
    loop.close()
    assert told == [("training", 10, 40, None, None), ("training", 15, 40, 4.0, 100.0)]


def test_a_loop_within_another_is_not_told(log, told, capsys):
    outer = Loop("training", 2)
    assert list(progress(range(3), 3, "responses sampled")) == [0, 1, 2]
    outer.advance(1)
    outer.close()
    assert {row[0] for row in told} == {"training"}
    assert list(progress(range(3), 3, "responses sampled")) == [0, 1, 2]
    assert told[-1][:3] == ("responses sampled", 3, 3)


def test_a_loop_that_breaks_off_gives_way_to_the_next(log, told):
    for _ in progress(range(3), 3, "entailment"):
        break
    with pytest.raises(ZeroDivisionError):
        for _ in progress(range(3), 3, "judge"):
            1 / 0  # noqa: B018
    assert list(progress(range(3), 3, "responses sampled")) == [0, 1, 2]
    assert told[-1][:3] == ("responses sampled", 3, 3)
