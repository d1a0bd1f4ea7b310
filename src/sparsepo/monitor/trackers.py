"""The trackers that a run can be sent to. An object of a class is one run of a tracker, from `start` to `finish`."""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsepo.data.records import read_text


@dataclass(frozen=True)
class TrackedRun:
    """A run as trackers know it. `id` stays the same when a training resumes, and is another when it starts anew."""

    id: str
    name: str
    group: str
    parameters: Mapping[str, Any]

    @property
    def unique_name(self) -> str:
        """For trackers that tell runs apart by their names."""
        return f"{self.name} ({self.id[:6]})"


class Tracker(ABC):
    """One run of a tracker. Its package is imported by `start`. `folder`: where local files of the tracker go."""

    def __init__(self, project: str, tags: Sequence[str], folder: Path):
        self.project, self.tags, self.folder = project, list(tags), folder

    @abstractmethod
    def start(self, run: TrackedRun) -> None:
        """Open the run, or go on with that of the same id."""

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    @abstractmethod
    def files(self, paths: Sequence[Path]) -> None:
        """Upload files, or what the tracker can show of them."""

    @abstractmethod
    def finish(self) -> None: ...


class Wandb(Tracker):
    def start(self, run: TrackedRun) -> None:
        import wandb

        self._run = wandb.init(
            project=self.project,
            id=run.id,
            name=run.name,
            group=run.group,
            tags=self.tags,
            config=dict(run.parameters),
            dir=self.folder,
            resume="allow",
            reinit="create_new",  # several runs are open at a time
            settings=wandb.Settings(console="off", quiet=True, x_disable_stats=True),  # this process trains nothing
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def files(self, paths: Sequence[Path]) -> None:
        import wandb

        artifact = wandb.Artifact(f"results-{self._run.id}", type="results")
        for path in paths:
            artifact.add_file(str(path))
        self._run.log_artifact(artifact)

    def finish(self) -> None:
        self._run.finish()


class Mlflow(Tracker):
    def start(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient

        self._client = client = MlflowClient()
        experiment = client.get_experiment_by_name(self.project)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(self.project)
        started = client.search_runs([experiment_id], f"tags.sparsepo_id = '{run.id}'")
        if started:
            self._id = started[0].info.run_id
            client.update_run(self._id, status="RUNNING")
            return
        tags = {"sparsepo_id": run.id, "group": run.group} | dict.fromkeys(self.tags, "true")
        self._id = client.create_run(experiment_id, run_name=run.name, tags=tags).info.run_id
        for name, value in run.parameters.items():
            client.log_param(self._id, name, value)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._id, [Metric(name, value, now, step) for name, value in values.items()])

    def files(self, paths: Sequence[Path]) -> None:
        for path in paths:
            self._client.log_artifact(self._id, str(path))

    def finish(self) -> None:
        self._client.set_terminated(self._id)


class Tensorboard(Tracker):
    """Event files in the folder `tensorboard/<project>/<group>/<run>`."""

    def start(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(self.folder / "tensorboard" / self.project / run.group / run.unique_name)
        if self.tags:
            self._writer.add_text("tags", ", ".join(self.tags))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def files(self, paths: Sequence[Path]) -> None:
        for path in paths:
            if path.suffix == ".md":
                self._writer.add_text(path.stem, read_text(path))

    def finish(self) -> None:
        self._writer.close()


class Trackio(Tracker):
    def start(self, run: TrackedRun) -> None:
        import trackio

        config = dict(run.parameters) | ({"tags": self.tags} if self.tags else {})
        self._run = trackio.init(
            project=self.project,
            name=run.unique_name,
            group=run.group,
            config=config,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def files(self, paths: Sequence[Path]) -> None:
        import trackio

        for path in paths:
            trackio.save(str(path), project=self.project)

    def finish(self) -> None:
        self._run.finish()


TRACKERS: dict[str, type[Tracker]] = {
    "wandb": Wandb,
    "trackio": Trackio,
    "tensorboard": Tensorboard,
    "mlflow": Mlflow,
}
