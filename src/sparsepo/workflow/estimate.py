"""What a sweep will take, before anything runs: `python -m sparsepo.workflow.estimate configs/paper/*.yaml`."""

import argparse

from sparsepo.config.loading import load_config
from sparsepo.config.runs import as_task
from sparsepo.runtime.entry_point import run_main
from sparsepo.training.memory import FLOAT, OPTIMIZER_STATE
from sparsepo.workflow.resources import TaskNeeds, job_resources
from sparsepo.workflow.stages import Stages

HEAD = ("stage", "jobs", "hours", "mem_mb", "runtime")
CHECKPOINTS = 3  # two that are kept, and one being written


def job_counts(stages: Stages, task: str) -> dict[str, int]:
    runs, measures = stages.runs(task, sft=False), stages.measures(task)
    named = [stages.rounds(task, run) for run in stages.runs_trained_by("rounds", task)]
    rounds = len({(path, number) for path, numbers in named for number in numbers})  # runs share those of one path
    counts = {"train_sft": 1, "load_policy": int(stages.config.tasks[task].policy is not None)}
    counts |= {"build_preferences": 1, "cache_reference": len(cached_kinds(stages, task))}
    counts |= {"train_policy": len(stages.runs_trained_by("pairs", task))}
    counts |= {"train_on_policy": len(stages.runs_trained_by("on_policy", task))}
    counts |= {"build_round_pairs": rounds, "train_round": rounds}
    sampling = {"samples": "responses"}
    of_runs = [f"sample_{sampling.get(kind, kind)}" for kind in stages.sampled(task)]
    of_runs += [f"measure_{name}" if name != "scores" else "evaluate_run" for name in measures]
    counts |= dict.fromkeys(of_runs, len(runs) + 1)
    return {stage: count for stage, count in counts.items() if count}


def cached_kinds(stages: Stages, task: str) -> set[str]:
    """The kinds of outputs of the reference that are cached for the runs of a task."""
    return {kind for run in stages.runs(task, sft=False) for kind in stages.reference_caches(task, run)}


def stage_rows(stages: Stages, task: str) -> list[tuple[str, int, float, int, int]]:
    """Of each stage of a task, and of its oracles: jobs, hours of all of them, `mem_mb` and `runtime` of each."""
    section = stages.config.tasks[task]
    jobs = [(stage, stage, count, section) for stage, count in job_counts(stages, task).items()]
    for name, oracle in section.oracles.items():
        own = ["train_oracle_sft"] * (oracle.model is not None) + ["train_oracle"] * oracle.is_trained
        own += ["train_swapped_oracle"] * oracle.contrast + ["score_tokens"]
        jobs += [(f"{stage} {name}", stage, 1, as_task(section, name)) for stage in own]
    hours = [count * getattr(TaskNeeds(part), stage)().seconds / 3600 for _, stage, count, part in jobs]
    return [
        (title, count, total, *job_resources(part, stage).values())
        for (title, stage, count, part), total in zip(jobs, hours, strict=True)
    ]


def disk(stages: Stages, task: str) -> dict[str, float]:
    """Bytes of the weights of all models, of what is cached of the reference, and of the checkpoints of one run."""
    section, needs = stages.config.tasks[task], TaskNeeds(stages.config.tasks[task])
    counts, training = job_counts(stages, task), section.training
    models = [
        (section, section.sft, 1),
        (section, None, counts.get("load_policy", 0)),
        (section, training, len(stages.runs(task, sft=False)) + counts.get("train_round", 0)),
    ]
    for part, oracle in ((as_task(section, name), oracle) for name, oracle in section.oracles.items()):
        models += [(part, part.sft, oracle.model is not None), (part, training, oracle.is_trained + oracle.contrast)]
    cached = sum(needs.size.width if kind == "states" else 1 for kind in cached_kinds(stages, task))
    weights_and_moments = FLOAT * (1 + (training.checkpoint_selection == "best")) + OPTIMIZER_STATE[training.optimizer]
    checkpoints = CHECKPOINTS * bool(training.checkpoint_every)
    return {
        "weights": sum(count * FLOAT * TaskNeeds(part).kept(how) for part, how, count in models),
        "reference cache": FLOAT * needs.pairs * 2 * needs.response * cached,
        "checkpoints of a run": checkpoints * needs.trained(training) * weights_and_moments,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("configs", nargs="+")
    for path in parser.parse_args().configs:
        stages = Stages(load_config(path))
        for task in stages.tasks:
            rows = stage_rows(stages, task)
            rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows), "", ""))
            cells = [(stage, f"{jobs:,}", f"{hours:,.1f}", *map(str, asked)) for stage, jobs, hours, *asked in rows]
            table = "\n".join(f"| {' | '.join(line)} |" for line in (HEAD, ["---"] * len(HEAD), *cells))
            sizes = ", ".join(f"{name} {size / 1e9:,.1f} GB" for name, size in disk(stages, task).items())
            print(f"\n{task}\n\n{table}\n\ndisk: {sizes}")


if __name__ == "__main__":
    run_main(main)
