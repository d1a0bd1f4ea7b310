"""What `sparsepo track` sends, to a tracker that only remembers; the real trackers are in test_trackers.py."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from sparsepo.config.loading import load_config
from sparsepo.monitor import tracking
from sparsepo.monitor.tracking import Sender, track
from sparsepo.runtime.errors import UserError
from sparsepo.workflow.stages import Stages

TASK = {
    "model": {"source": "scratch", "config": {"model_type": "gpt2"}, "tokenizer": {"kind": "word"}},
    "data": {"source": "planted", "texts": 60, "prompts": {"train": 20, "validation": 8, "test": 8}},
    "sft": {},
    "preferences": {"source": "generated", "scorer": {"kind": "vader"}},
    "methods": {"dpo": {"beta": ["0.1"]}},
    "training": {"batch_size": 10, "frontier_every": 0},
    "evaluation": {"scorer": {"kind": "vader"}},
}
RUN = "dpo/beta~0.1/seed~0"
NAME = "dpo beta=0.1 seed 0"


class Remembering:
    """A tracker that writes down what it is told."""

    calls = []
    is_reachable = True

    def __init__(self, project, tags, folder):
        self.calls.append(("open", project, tags))

    def start(self, run):
        if not self.is_reachable:
            raise ConnectionError("no route to http://me:secret@host/api")
        self.run = run
        self.calls.append(("start", run.group, run.name, run.id))

    def log(self, step, values):
        self.calls.append((self.run.name, step, values))

    def files(self, paths):
        self.calls.append(("files", [path.name for path in paths]))

    def finish(self):
        self.calls.append(("finish", self.run.name))


@pytest.fixture
def calls(monkeypatch):
    monkeypatch.setattr("sparsepo.config.tracking.find_spec", lambda name: SimpleNamespace(origin=name))
    monkeypatch.setattr(Remembering, "calls", [])
    monkeypatch.setattr(Remembering, "is_reachable", True)
    monkeypatch.setitem(tracking.TRACKERS, "wandb", Remembering)
    return Remembering.calls


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The folder of a config with one task, and results/ beside it."""
    monkeypatch.chdir(tmp_path)
    write_config({"report_to": "wandb", "tags": ["a"]})
    return tmp_path


def write_config(section, **task):
    config = {"name": "small", "tasks": {"reviews": TASK | task}}
    Path("config.yaml").write_text(yaml.safe_dump(config | ({"tracking": section} if section else {})))


def write_log(*rows, end="", finished=False, run=f"runs/{RUN}"):
    folder = Path("results/reviews", run)
    path = folder / ("dynamics.jsonl" if finished else "checkpoint/dynamics.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + end)
    if finished:
        (folder / "run.json").write_text("{}")


def row(step, loss=0.5, speed=7.0):
    return {"step": step, "loss": loss, "tokens_per_second": speed}


def sender():
    return Sender("wandb", load_config("config.yaml"), Path("results"))


def steps(calls, name=NAME):
    return [call[1] for call in calls if call[0] == name]


def test_rows_go_to_a_run_of_that_name_in_the_group_of_its_task(files, calls):
    write_log(row(1) | {"note": "text", "flag": True, "none": None}, row(2))
    assert sender().send()
    assert calls[0] == ("open", "small", ["a"])
    assert calls[1][:3] == ("start", "reviews", NAME)
    assert calls[2] == (NAME, 1, {"loss": 0.5, "tokens_per_second": 7.0})


def test_each_row_is_sent_once_while_a_training_goes_on_and_ends(files, calls):
    own = sender()
    for rows in ([row(1)], [row(1), row(2)], [row(1), row(2)]):
        write_log(*rows)
        own.send()
    assert steps(calls) == [1]
    write_log(row(1), row(2), row(3), finished=True)
    own.send()
    assert steps(calls) == [1, 2, 3]
    assert [call[0] for call in calls].count("start") == 1 and calls[-1] == ("finish", NAME)


def test_a_row_of_validation_joins_that_of_its_step_whenever_it_is_written(files, calls):
    own = sender()
    before, after = ({"step": step, "validation_loss": 0.9} for step in (0, 1))
    for rows in ([before], [before, row(1)], [before, row(1), after], [before, row(1), after, row(2)]):
        write_log(*rows)
        own.send()
    assert [call[1:] for call in calls if call[0] == NAME] == [
        (0, {"validation_loss": 0.9}),
        (1, {"loss": 0.5, "tokens_per_second": 7.0, "validation_loss": 0.9}),
    ]


def test_a_second_call_sends_only_what_is_new_to_the_same_run(files, calls):
    write_log(row(1), row(2))
    sender().send(is_last=True)
    write_log(row(1), row(2), row(3))
    sender().send(is_last=True)
    assert steps(calls) == [1, 2, 3]
    first, second = (call for call in calls if call[0] == "start")
    assert first == second


def test_a_resumed_training_continues_its_curve(files, calls):
    """It drops the rows after its last checkpoint, and writes them again."""
    own = sender()
    for rows in ([row(1), row(2), row(3)], [row(1)], [row(1), row(2, speed=3.0)], [row(1), row(2), row(3), row(4)]):
        write_log(*rows)
        own.send()
    own.send(is_last=True)
    assert steps(calls) == [1, 2, 3, 4]


def test_a_training_that_starts_anew_is_another_run(files, calls):
    own = sender()
    before = {"step": 0, "validation_loss": 0.9}
    write_log(before, row(1), row(2), finished=True)
    own.send()
    write_log(before, row(1, speed=3.0), finished=True)
    own.send()
    assert steps(calls) == [0, 1, 2, 0, 1]
    first, second = (call[3] for call in calls if call[0] == "start")
    assert first != second


@pytest.mark.parametrize("end", ['{"step": 2, "lo', '{"step": 2, "lo\n', '{"step": 2, "loss": 0.5}'])
def test_a_last_line_that_is_not_complete_waits(end, files, calls):
    own = sender()
    write_log(row(1), end=end)
    own.send(is_last=True)
    assert steps(calls) == [1]
    write_log(row(1), row(2))
    own.send(is_last=True)
    assert steps(calls) == [1, 2]


def test_sft_is_tracked_and_a_group_of_the_config_holds_all_runs(files, calls):
    write_config({"report_to": ["wandb"], "project": "p", "group": "g"})
    write_log(row(1), row(2), run="sft")
    sender().send()
    assert calls[0][1] == "p" and calls[1][:3] == ("start", "g", "sft")


def test_tables_and_page_are_sent_at_the_end_and_again_only_when_they_have_changed(files, calls):
    for name in ("tables/reviews.csv", "tables/reviews.md", "tables/other.md", "report/index.html"):
        path = Path("results", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    sent = ("files", ["reviews.csv", "reviews.md", "index.html"])
    sender().send()
    assert sent not in calls
    sender().send(is_last=True)
    sender().send(is_last=True)
    assert calls.count(sent) == 1
    Path("results/tables/reviews.md").write_text("new")
    sender().send(is_last=True)
    assert calls.count(sent) == 2


def test_a_tracker_that_is_not_reachable_is_a_warning_and_gets_all_rows_later(files, calls, capsys, monkeypatch):
    write_log(row(1))
    monkeypatch.setattr(Remembering, "is_reachable", False)
    with pytest.raises(UserError, match="wandb: not everything was sent; write: sparsepo track config.yaml"):
        track([Path("config.yaml")], {}, Path("results"))
    assert "warning: wandb: ConnectionError: no route to http://[login]@host/api" in capsys.readouterr().err
    monkeypatch.setattr(Remembering, "is_reachable", True)
    track([Path("config.yaml")], {}, Path("results"))
    assert steps(calls) == [1]


def test_another_project_gets_all_rows(files, calls):
    write_log(row(1), row(2))
    sender().send()
    write_config({"report_to": ["wandb"], "project": "other"})
    sender().send()
    assert steps(calls) == [1, 1]


def test_it_follows_a_process_to_its_end_and_then_sends_what_is_left(files, calls, monkeypatch):
    monkeypatch.setattr(tracking, "POLL_SECONDS", 0.05)
    write_log(row(1))
    script = "import sys, time; time.sleep(0.5); open('results/tables/reviews.md', 'w').write('table')"
    Path("results/tables").mkdir()
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        started = time.monotonic()
        track([Path("config.yaml")], {}, Path("results"), process.pid)
    assert time.monotonic() - started >= 0.4
    assert steps(calls) == [1] and ("files", ["reviews.md"]) in calls


def test_values_of_the_command_line_replace_those_of_the_file(files, calls):
    write_log(row(1), run="runs/dpo/beta~0.1/seed~5")
    track([Path("config.yaml")], {"tasks__reviews__seeds": [5]}, Path("results"))
    assert steps(calls, "dpo beta=0.1 seed 5") == [1]


def test_a_config_without_tracking_says_what_to_write(files):
    write_config(None)
    with pytest.raises(UserError, match=r"no 'tracking' section; write tracking: \{report_to: \[wandb\]\}"):
        track([Path("config.yaml")], {}, Path("results"))


@pytest.mark.parametrize("spec", [None, SimpleNamespace(origin=None)], ids=["none", "a folder of runs"])
def test_a_tracker_that_is_not_installed_is_an_error_of_the_config(spec, files, monkeypatch):
    monkeypatch.setattr("sparsepo.config.tracking.find_spec", lambda name: spec)
    with pytest.raises(UserError, match=r": tracking.report_to: not installed; write: pip install wandb$"):
        load_config("config.yaml")


@pytest.mark.parametrize(
    ("given", "message"),
    [("wandbb", "wandb"), ([], "report_to"), (["wandb", "wandb"], "each tracker once")],
)
def test_a_wrong_list_of_trackers_is_an_error(given, message, files, calls):
    write_config({"report_to": given})
    with pytest.raises(UserError, match=message):
        load_config("config.yaml")


def test_no_setting_of_a_job_holds_the_tracking_so_that_it_reruns_nothing(files, calls):
    def all_settings():
        stages = Stages.read(["config.yaml"], {})
        one = {"task": "reviews"}
        run = one | {"run": RUN}
        return [
            stages.settings("prepare_data", **one),
            stages.settings("train_sft", **one),
            stages.settings("train_policy", **run),
            stages.resolved_config(**one),
        ]

    with_tracking = all_settings()
    write_config(None)
    assert all_settings() == with_tracking
