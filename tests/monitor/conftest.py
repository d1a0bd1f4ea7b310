"""A results folder with whatever jobs a test wants, on a clock that the test sets."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from sparsepo.monitor.job_state import Machine
from sparsepo.monitor.plan_file import Plan, read_plan, write_plan
from sparsepo.monitor.sweep import read_sweep
from sparsepo.runtime.status import Status


@dataclass
class MadeUpSweep:
    """Seconds count from the start of Snakemake, process 7 of node1. Jobs are processes of node1 unless said."""

    folder: Path
    clock = 1_700_000_000.0

    @property
    def results(self):
        return self.folder / "results"

    def plan(self, *runs, done=(), host="node1", local=True, ended=None, task="small", **stages):
        """Write the plan of a start that makes these runs; `done` are up to date. More tasks: call it again."""
        items = {"train_policy": dict.fromkeys(done, False) | dict.fromkeys(runs, True)}
        stages = {name: dict.fromkeys(names, True) for name, names in stages.items()} | items
        earlier = read_plan(self.results).tasks if (self.results / "plan.json").exists() else {}
        ended = None if ended is None else self.clock + ended
        write_plan(self.results, Plan(["tiny"], {**earlier, task: stages}, 7, host, local, self.clock, ended))

    def write(self, path, text, at):
        """A file below the folder, last written at this second."""
        path = self.folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (self.clock + at, self.clock + at))

    def status(self, job, state, at, since=0, task="small", **facts):
        """The status file of a job, `train_policy/<run>` or another log, last updated at this second."""
        status = Status(state, "node1", 99, self.clock + since, self.clock + at)
        self.write(f"logs/{task}/{job}.status.json", json.dumps(asdict(status) | facts), at)

    def log(self, run, text, at, task="small"):
        self.write(f"logs/{task}/train_policy/{run}.log", text, at)

    def output(self, run, at, task="small"):
        self.write(f"results/{task}/runs/{run}/run.json", "{}\n", at)

    def finished(self, run, at, seconds=60, task="small"):
        """A run that took so many seconds until this one, and its output."""
        self.output(run, at, task)
        self.status(f"train_policy/{run}", "finished", at, since=at - seconds, task=task)

    def failed(self, run, error, at, task="small"):
        self.status(f"train_policy/{run}", "failed", at, error=error, task=task)

    def trains(self, run, step, steps, at, pace=2.0, loss=0.5, reward=None, state="running", task="small", **facts):
        """A run that trains, at so many seconds a step."""
        metrics = {"loss": loss, "reward_margin": 1.25, "reward_accuracy": 0.75}
        metrics |= {} if reward is None else {"reward": reward}
        done = {"phase": "training", "step": step, "steps": steps, "metrics": metrics, **facts}
        speed = {"seconds_per_step": pace, "seconds_left": pace and pace * (steps - step)}
        self.log(run, "layout: shared\n", at, task)
        self.status(f"train_policy/{run}", state, at, since=at - step * (pace or 0.0), task=task, **speed | done)

    def half_way(self, runs):
        """Of 500 planned runs 300 are done and 50 have failed; 50 train, and 100 are queued."""
        for number, run in enumerate(runs):
            if number < 300:
                self.finished(run, at=50)
            elif number < 350:
                self.failed(run, "too warm", at=50)
            elif number < 400:
                self.trains(run, step=30, steps=60, at=90)

    def read(self, now, host="node1", alive=True, working=True):
        """The sweep as a machine sees it; `alive`: whether Snakemake is there, `working`: process 99 of its jobs."""
        there = {7: self.clock - 5} if alive else {}
        there |= {99: self.clock - 90} if working else {}
        return read_sweep(self.results, read_plan(self.results), Machine(host, self.clock + now, there.get))


@pytest.fixture
def sweep(tmp_path):
    return MadeUpSweep(tmp_path)
