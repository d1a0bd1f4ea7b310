"""The files of a task, as the page reads them: nothing is computed here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sparsepo.data.records import read_json, read_rows
from sparsepo.report.run_names import RUN_STAGES

LOG_LINES = 30


@dataclass(frozen=True)
class TaskResults:
    """The files of a task: `runs` are the paths of its trainings, `parts` what was measured beside `scores`.

    results, logs: the folders of all tasks. config: of the task, resolved. compare: settings of its comparison.
    """

    name: str
    results: Path
    logs: Path
    runs: Sequence[str]
    parts: Sequence[str]
    config: Mapping[str, Any]
    compare: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        return self.results / self.name

    @property
    def all_runs(self) -> list[str]:
        """The SFT model, then the runs."""
        return ["sft", *self.runs]

    @cached_property
    def scores(self) -> dict[str, dict[str, Any]]:
        """Run -> its file of scores."""
        return {run: self._json(f"scores/{run}.json") for run in self.all_runs}

    @property
    def has_planted_tokens(self) -> bool:
        """Whether it is known which tokens matter."""
        return self.config["data"]["source"] == "planted"

    @property
    def measures(self) -> list[dict[str, Any]]:
        """Every file of measures, part by part, as the comparison takes them."""
        others = [self._json(f"{part}/{run}.json") for part in self.parts for run in self.all_runs]
        return [*self.scores.values(), *others]

    @property
    def first_seeds(self) -> list[str]:
        """SFT and the run of the first seed of each setting: what tokens and samples are shown of."""
        first: dict[str, str] = {}
        for run in self.runs:
            first.setdefault(run.rsplit("/", 1)[0], run)
        return ["sft", *first.values()]

    def measured(self, part: str, run: str) -> dict[str, Any] | None:
        """A file of measures, None where this part was not asked for."""
        return self._json(f"{part}/{run}.json") if part in ("scores", *self.parts) else None

    def rows(self, kind: str, run: str) -> list[dict[str, Any]]:
        """The rows of `samples`, `tokens`, `generations` or `programs` of a run; none where there is no such file."""
        path = self.folder / kind / f"{run}.jsonl"
        return read_rows(path) if path.exists() else []

    def logged(self, kind: str, run: str) -> list[dict[str, Any]]:
        """The rows of `dynamics` or `frontier` that a training wrote."""
        return read_rows(self.run_folder(run) / f"{kind}.jsonl")

    def run_folder(self, run: str) -> Path:
        return self.folder / ("sft" if run == "sft" else f"runs/{run}")

    def record(self, run: str) -> dict[str, Any]:
        """The record of a training; empty for a model that was not trained here."""
        path = self.run_folder(run) / "run.json"
        return read_json(path) if path.exists() else {}

    def log_tail(self, run: str) -> str:
        """The last lines of the log of a training; empty where its log was removed."""
        logs = self.logs / self.name
        paths = [logs / "train_sft.log"] if run == "sft" else [logs / stage / f"{run}.log" for stage in RUN_STAGES]
        path = next((path for path in paths if path.exists()), None)
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]) if path else ""

    def fitted(self) -> list[dict[str, Any]]:
        """The report of the scorer that the pipeline fitted, if it did."""
        path = self.folder / "scorer" / "report.json"
        return [read_json(path)] if path.exists() else []

    def _json(self, place: str) -> Any:
        return read_json(self.folder / place)
