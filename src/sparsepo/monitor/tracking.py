"""`sparsepo track CONFIG`: send the curves of training runs, and the tables at the end, to trackers.

It reads what trainings write and touches none of them. What was sent is kept in `results/.tracking/<tracker>.json`, so
that a second call sends only what is new.
"""

import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsepo.config import Config
from sparsepo.config.loading import load_config
from sparsepo.config.runs import runs_of
from sparsepo.data.records import read_json, write_json
from sparsepo.monitor.job_state import creation_time
from sparsepo.monitor.trackers import TRACKERS, TrackedRun, Tracker
from sparsepo.report.run_names import params_text, parse_run
from sparsepo.runtime.errors import UserError, one_line

FOLDER = ".tracking"
LOG = Path("logs/tracking.log")
POLL_SECONDS = 5.0
LOGIN = re.compile(r"//[^/@\s]+@")
"""Of an address in an error message, as http://user:password@server."""
RETRY_SECONDS = 60.0  # after a tracker was not reachable


def track(paths: Sequence[Path], overrides: Mapping[str, Any], results: Path, follow: int | None = None) -> None:
    """Send what is new of all runs of a config, and its tables; with `follow` until this process ends.

    Raises UserError if the config names no tracker, or if something could not be sent.
    """
    config = load_config(paths, overrides)
    if config.tracking is None:
        raise UserError(f"{paths[-1]}: no 'tracking' section; write tracking: {{report_to: [wandb]}}")
    with _sending_lock(results / FOLDER):
        senders = [Sender(name, config, results) for name in config.tracking.report_to]
        started = None if follow is None else creation_time(follow)
        while started is not None and creation_time(follow) == started:
            for sender in senders:
                sender.send()
            time.sleep(POLL_SECONDS)
        failed = [sender.name for sender in senders if not sender.send(is_last=True)]
    if failed:
        raise UserError(f"{', '.join(failed)}: not everything was sent; write: sparsepo track {paths[-1]}")


@contextmanager
def _sending_lock(folder: Path) -> Iterator[None]:
    """Wait until no other process sends the results of this folder. A file system without locks has none."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as file:
        with suppress(OSError):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"another process sends the results of {folder.parent}; waiting for its end", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def start_follower(paths: Sequence[Path], overrides: Mapping[str, Any], python_path: str) -> None:
    """Start `sparsepo track` in the background until this process, which is Snakemake, has ended."""
    LOG.parent.mkdir(exist_ok=True)
    code = "from sparsepo.cli.main import entry; entry()"
    command = [sys.executable, "-c", code, "track", *map(str, paths), "--follow", str(os.getpid())]
    with open(LOG, "a", encoding="utf-8") as log:
        subprocess.Popen(
            [*command, "--overrides", json.dumps(overrides)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": python_path, "PYTHONUTF8": "1"},
            start_new_session=True,  # Ctrl-C ends Snakemake, and then there is a last pass
        )


@dataclass(frozen=True)
class TrainingLog:
    """The log of a training: of one that has finished in the folder of the run, before that beside its checkpoints."""

    task: str
    run: str
    folder: Path
    group: str

    @property
    def is_done(self) -> bool:
        return (self.folder / "run.json").exists() and (self.folder / "dynamics.jsonl").exists()

    @property
    def lines(self) -> list[str]:
        """The complete lines; a last one without an end is still being written."""
        for path in self._paths:
            with suppress(OSError):
                return path.read_text(encoding="utf-8").split("\n")[:-1]
        return []

    @property
    def version(self) -> tuple[Any, ...]:
        """Another one after each change of the log."""
        for path in self._paths:
            with suppress(OSError):
                stat = path.stat()
                return self.is_done, path, stat.st_mtime_ns, stat.st_size
        return ()

    @property
    def _paths(self) -> tuple[Path, Path]:
        return self.folder / "dynamics.jsonl", self.folder / "checkpoint/dynamics.jsonl"

    def tracked_run(self, first: Mapping[str, Any]) -> TrackedRun:
        """The id is of the path and of the first row with a speed, which is another when a training starts anew."""
        method, params, seed = parse_run(self.run)
        name = method if seed is None else f"{method} {params_text(params)} seed {seed}"
        parameters = {"task": self.task, "method": method, **params} | ({} if seed is None else {"seed": seed})
        return TrackedRun(_hash(self.task, self.run, json.dumps(first)), name, self.group, parameters)


def logs_of(config: Config, results: Path) -> list[TrainingLog]:
    """The logs of all trainings of a config, SFT first; of a run of several rounds that of the finished run."""
    logs = []
    for name, task in config.tasks.items():
        group = config.tracking.group or name
        logs += [TrainingLog(name, "sft", results / name / "sft", group)] * (task.sft is not None)
        logs += [TrainingLog(name, run.path, results / name / "runs" / run.path, group) for run in runs_of(task)]
    return logs


class Sender:
    """Sends to one tracker what it does not have yet. A tracker that fails is tried again later."""

    def __init__(self, name: str, config: Config, results: Path):
        self.name, self._config, self._results = name, config, results
        self._project = config.tracking.project or config.name
        self._path = results / FOLDER / f"{name}.json"
        sent = read_json(self._path) if self._path.exists() else {}
        self._sent = sent if sent.get("project") == self._project else {"project": self._project, "runs": {}}
        self._logs = logs_of(config, results)
        self._open: dict[str, Tracker] = {}
        self._read: dict[TrainingLog, tuple[Any, ...]] = {}
        self._next_try = 0.0

    def send(self, *, is_last: bool = False) -> bool:
        """Send what is new, and the tables if this is the last pass. False, and a warning, if it failed."""
        if time.monotonic() < self._next_try and not is_last:
            return False
        try:
            for log in self._logs:
                version = log.version
                if is_last or version != self._read.get(log):
                    self._send_rows(log, is_last)
                    self._read[log] = version
            if is_last:
                self._send_results()
        except Exception as error:  # of a package that is not ours: a sweep does not depend on it
            reason = one_line(LOGIN.sub("//[login]@", f"{type(error).__name__}: {error}"), 300)
            print(f"{time.strftime('%F %T')} warning: {self.name}: {reason}", file=sys.stderr, flush=True)
            for tracker in self._open.values():
                with suppress(Exception):
                    tracker.finish()
            self._open.clear()
            self._next_try = time.monotonic() + RETRY_SECONDS
            return False
        return True

    def _send_rows(self, log: TrainingLog, is_last: bool) -> None:
        """Of a training that goes on all steps but the last, which may get one more row, of validation."""
        is_done, rows, key = log.is_done or is_last, list(_rows(log.lines)), f"{log.task}/{log.run}"
        first = next((row for row in rows if "tokens_per_second" in row), None)
        if first is not None:
            run = log.tracked_run(first)
            sent = self._sent["runs"].get(key, {})
            if sent.get("id") != run.id:
                self._finish(key)
                sent = {"id": run.id, "step": -1}
            new: dict[int, dict[str, float]] = {}
            for row in rows:
                if row["step"] > sent["step"] and (is_done or row["step"] < rows[-1]["step"]):
                    values = {name: value for name, value in row.items() if name != "step" and _is_number(value)}
                    new.setdefault(row["step"], {}).update(values)
            for step, values in new.items():
                self._tracker(key, run).log(step, values)
            if new:
                self._sent["runs"][key] = {"id": run.id, "step": max(new)}
                write_json(self._path, self._sent)
        if is_done:
            self._finish(key)

    def _send_results(self) -> None:
        """The tables and the page, if they are not those that were sent before."""
        files = [
            path
            for task in self._config.tasks
            for kind in ("csv", "md")
            if (path := self._results / "tables" / f"{task}.{kind}").exists()
        ]
        content = _hash(*(path.read_bytes().hex() for path in files))
        if not files or self._sent.get("results") == content:
            return
        page = self._results / "report/index.html"
        group = self._config.tracking.group or "results"
        tracker = self._tracker("results", TrackedRun(_hash(self._project), "results", group, {}))
        tracker.files([*files, *[page] * page.exists()])
        self._finish("results")
        self._sent["results"] = content
        write_json(self._path, self._sent)

    def _tracker(self, key: str, run: TrackedRun) -> Tracker:
        """The open run of the tracker."""
        if key not in self._open:
            tracker = TRACKERS[self.name](self._project, self._config.tracking.tags, self._results / FOLDER)
            tracker.start(run)
            self._open[key] = tracker
        return self._open[key]

    def _finish(self, key: str) -> None:
        if key in self._open:
            self._open.pop(key).finish()


def _rows(lines: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a log up to a line that a killed training has left broken."""
    for line in lines:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
