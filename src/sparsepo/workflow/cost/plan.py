"""What the configs of a sweep will take, before anything runs.

`python -m sparsepo.workflow.cost.plan configs/paper/*.yaml` prints it.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sparsepo.config import TaskConfig
from sparsepo.config.loading import load_config
from sparsepo.config.runs import as_task
from sparsepo.runtime.errors import run
from sparsepo.workflow.cost import formulas
from sparsepo.workflow.cost.estimates import ESTIMATES, Estimate, asked, host_bytes
from sparsepo.workflow.cost.sizes import Sizes
from sparsepo.workflow.stages import Stages

HEAD = ("task", "stage", "jobs", "TFLOP a job", "hours a job", "hours", "memory GB", "mem_mb", "runtime")


@dataclass(frozen=True)
class Row:
    """So many jobs of a stage, what one of them needs and what it asks for."""

    task: str
    stage: str
    jobs: int
    estimate: Estimate
    memory: float
    asked: dict[str, int]

    @property
    def hours(self) -> float:
        return self.jobs * self.estimate.seconds / 3600


@dataclass(frozen=True)
class Disk:
    """Bytes of a task: the reference and its caches, weights of all runs, and what one run holds while it trains."""

    reference: float
    caches: float
    weights: float
    training: float


def rows(stages: Stages, task: str) -> Iterator[Row]:
    """One a stage that the task has, in the order in which they run; then those of its oracles."""
    section = stages.config.tasks[task]
    for stage, jobs in jobs_of(stages, task).items():
        yield _row(task, section, stage, jobs)
    for name, oracle in section.oracles.items():
        for stage in (*(["sft"] if oracle.model else []), "train", "score_tokens"):
            row = _row(task, as_task(section, name), stage, 1)
            yield replace(row, stage=f"{stage} of oracle {name}")


def _row(task: str, section: TaskConfig, stage: str, jobs: int) -> Row:
    sizes = Sizes.of(section)
    found = ESTIMATES[stage](sizes)
    return Row(task, stage, jobs, found, host_bytes(sizes, stage, found.memory), asked(section, stage))


def jobs_of(stages: Stages, task: str) -> dict[str, int]:
    """How many jobs each stage with an estimate has."""
    trained = stages.runs(task, sft=False)
    every, parts = len(trained) + 1, stages.parts(task)
    kinds = {kind for each in trained for kind in stages.cached(task, each)}
    by = {trainer: len(stages.runs_by(trainer, task)) for trainer in ("pairs", "on_policy")}
    rounds = rounds_of(stages, task)
    counts = {"sft": 1, "preferences": 1, "reference": len(kinds), "train": by["pairs"]}
    counts |= {"sample_round": rounds, "train_round": rounds, "train_on_policy": by["on_policy"]}
    counts |= {"sample": every, "evaluate": every, "generate": every * bool({"summaries", "wins"} & set(parts))}
    counts |= {"programs": every * ("code" in parts)} | dict.fromkeys(parts, every)
    return {stage: count for stage, count in counts.items() if count}


def rounds_of(stages: Stages, task: str) -> int:
    """How many rounds the runs of a task have, shared ones once."""
    shared = [stages.rounds(task, run) for run in stages.runs_by("rounds", task)]
    return len({(path, number) for path, numbers in shared for number in numbers})


def disk(stages: Stages, task: str) -> Disk:
    """At most, as every response is taken to be as long as the config lets it be."""
    section, trained = stages.config.tasks[task], stages.runs(task, sft=False)
    sizes = Sizes.of(section)
    kinds = {kind for each in trained for kind in stages.cached(task, each)}
    values = sum(sizes.shape.width if kind == "states" else 1 for kind in kinds)
    weights = formulas.weights_bytes(sizes.shape)
    return Disk(
        reference=weights,
        caches=sizes.pairs * 2 * sizes.response * values * formulas.SINGLE,
        weights=(len(trained) + rounds_of(stages, task)) * weights
        + sum(_weights_of(section, name) for name in section.oracles),
        training=formulas.checkpoint_bytes(
            sizes.shape, section.training, section.training.checkpoint_selection == "best"
        ),
    )


def _weights_of(section: TaskConfig, oracle: str) -> float:
    """Of an oracle, and of the model that it started from if that is not the task's."""
    own = section.oracles[oracle].model is not None
    return (1 + own) * formulas.weights_bytes(Sizes.of(as_task(section, oracle)).shape)


def table(found: list[Row]) -> str:
    """Markdown, a line a stage of a task and one of each task's sum."""
    cells = [
        (
            row.task,
            row.stage,
            f"{row.jobs:,}",
            f"{row.estimate.flops / 1e12:,.3g}",
            f"{row.estimate.seconds / 3600:,.2f}",
            f"{row.hours:,.1f}",
            f"{row.memory / 1e9:,.1f}",
            f"{row.asked['mem_mb']:,}",
            f"{row.asked['runtime']:,}",
        )
        for row in found
    ]
    for task in dict.fromkeys(row.task for row in found):
        own = [row for row in found if row.task == task]
        hours, jobs = sum(row.hours for row in own), sum(row.jobs for row in own)
        cells.append((task, "all", f"{jobs:,}", "", "", f"{hours:,.1f}", "", "", ""))
    return "\n".join("| " + " | ".join(line) + " |" for line in (HEAD, ("---",) * len(HEAD), *cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="+")
    for path in parser.parse_args().configs:
        stages = Stages(load_config(path))
        print(table([row for task in stages.tasks for row in rows(stages, task)]))
        for task in stages.tasks:
            needs = {name: f"{value / 1e9:,.1f} GB" for name, value in vars(disk(stages, task)).items()}
            print(f"disk of {task}: {', '.join(f'{name} {size}' for name, size in needs.items())}\n")


if __name__ == "__main__":
    run(main)
