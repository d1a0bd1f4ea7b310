"""What a sweep will take, before anything runs: `python -m sparsepo.workflow.estimate configs/paper/*.yaml`."""

import argparse

from sparsepo.config.loading import load_config
from sparsepo.config.runs import as_task
from sparsepo.runtime.entry_point import run_main
from sparsepo.workflow.resources import FLOAT, TaskNeeds, job_resources
from sparsepo.workflow.stages import Stages

HEAD = ("stage", "jobs", "hours", "mem_mb", "runtime")
CHECKPOINT = 3 * 3 * FLOAT  # bytes a parameter: weights and two moments, of two checkpoints and one being written


def job_counts(stages: Stages, task: str) -> dict[str, int]:
    """How many jobs of a task each stage has."""
    runs, measures = stages.runs(task, sft=False), stages.config.tasks[task].evaluation.measures
    named = [stages.rounds(task, run) for run in stages.runs_trained_by("rounds", task)]
    rounds = {(path, number) for path, numbers in named for number in numbers}  # runs share those of one path
    caches = {kind for run in runs for kind in stages.reference_caches(task, run)}
    counts = {"train_sft": 1, "build_preferences": 1, "cache_reference": len(caches)}
    for stage, trainer in (("train_policy", "pairs"), ("train_on_policy", "on_policy")):
        counts[stage] = len(stages.runs_trained_by(trainer, task))
    counts |= {"build_round_pairs": len(rounds), "train_round": len(rounds)}
    of_runs = ["sample_responses", "evaluate_run", *(f"measure_{measure}" for measure in measures)]
    of_runs += ["sample_generations"] * bool({"summaries", "win_rate"} & set(measures))
    of_runs += ["sample_programs"] * ("pass_at_k" in measures)
    counts |= dict.fromkeys(of_runs, len(runs) + 1)
    return {stage: count for stage, count in counts.items() if count}


def stage_rows(stages: Stages, task: str) -> list[tuple[str, int, float, int, int]]:
    """Of each stage of a task, and of its oracles: jobs, hours of all of them, `mem_mb` and `runtime` of each."""
    section = stages.config.tasks[task]
    jobs = [(stage, stage, count, section) for stage, count in job_counts(stages, task).items()]
    for name, oracle in section.oracles.items():
        own = [*["train_oracle_sft"] * (oracle.model is not None), "train_oracle", "score_tokens"]
        jobs += [(f"{stage} {name}", stage, 1, as_task(section, name)) for stage in own]
    rows = []
    for title, stage, count, part in jobs:
        hours = count * getattr(TaskNeeds(part), stage)().seconds / 3600
        rows.append((title, count, hours, *job_resources(part, stage).values()))
    return rows


def disk(stages: Stages, task: str) -> dict[str, float]:
    """Bytes of the weights of all models, of what is cached of the reference, and of the checkpoints of one run."""
    section, needs = stages.config.tasks[task], TaskNeeds(stages.config.tasks[task])
    runs = stages.runs(task, sft=False)
    kinds = {kind for run in runs for kind in stages.reference_caches(task, run)}
    models = [(section, len(runs) + 1 + job_counts(stages, task).get("train_round", 0))]
    models += [(as_task(section, name), 1 + (oracle.model is not None)) for name, oracle in section.oracles.items()]
    cached = sum(needs.size.width if kind == "states" else 1 for kind in kinds)
    return {
        "weights": sum(count * FLOAT * TaskNeeds(part).size.parameters for part, count in models),
        "reference cache": FLOAT * needs.pairs * 2 * needs.response * cached,
        "checkpoints of a run": CHECKPOINT * needs.size.parameters * bool(section.training.checkpoint_every),
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
