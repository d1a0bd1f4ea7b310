"""The whole paper in one dry run: every job of its four tasks with three seeds, and what planning them takes."""

import re
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAPER = sorted((ROOT / "configs/paper").glob("*.yaml"))
SEEDS = 3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


MEASURE = "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
MEASURE += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); sys.exit(code)"
"""A small process that starts a command: on Linux the most memory of a process counts that of the one it was forked
from, and a test process holds a gigabyte when it has run other tests before."""


def dry_run(folder, *arguments):
    """What a dry run printed, and the most memory that it held, in bytes."""
    snakemake = [
        sys.executable,
        "-m",
        "snakemake",
        "-s",
        ROOT / "Snakefile",
        "--directory",
        folder,
        "-n",
        "--quiet",
        "all",
    ]
    command = [sys.executable, "-c", MEASURE, *map(str, snakemake), *arguments]
    finished = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    *_, kilobytes = finished.stderr.split()
    return finished.stdout + finished.stderr, int(kilobytes) * 1024


def points(grid):
    return prod(len(values) if isinstance(values, list) else 1 for values in grid.values())


def test_the_paper_with_three_seeds_plans_every_job_in_less_than_a_gigabyte(tmp_path):
    tasks = {name: task for path in PAPER for name, task in yaml.safe_load(path.read_text())["tasks"].items()}
    seeds = [f"tasks__{name}__seeds={list(range(SEEDS))}".replace(" ", "") for name in tasks]
    printed, memory = dry_run(tmp_path, "--configfile", *map(str, PAPER), "--config", *seeds)
    table = printed.rsplit("Job stats:", 1)[1]
    counts = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}

    runs = {name: SEEDS * sum(map(points, task["methods"].values())) for name, task in tasks.items()}
    evaluated = {name: count + 1 for name, count in runs.items()}  # and the SFT model

    def of(*parts):
        """Jobs of a part that is measured of every run where the config asks for it."""
        return sum(evaluated[name] for name, task in tasks.items() if any(part in task["evaluation"] for part in parts))

    assert sorted(tasks) == ["hh", "imdb", "mbpp", "tldr"] and sum(runs.values()) == 3 * (153 + 8 + 5 + 56)
    online = [name for name, task in tasks.items() if "adapter" in task["training"] or "reference" in task["training"]]
    assert counts == {
        "all": 1,
        **dict.fromkeys(
            ("prepare_data", "train_sft", "build_preferences", "compare_methods", "make_grid_table", "plot_dynamics"), 4
        ),
        "cache_reference": 2 * (4 - len(online)),  # last states, and MaPO's weights
        "train_policy": sum(runs.values()),
        "sample_responses": sum(evaluated.values()),
        "evaluate_run": sum(evaluated.values()),
        "sample_generations": of("generation"),
        "measure_summaries": of("summaries"),
        "measure_benchmarks": of("benchmarks"),
        "sample_programs": of("code"),
        "measure_pass_at_k": of("code"),
        "build_report": 1,
        "make_matched_kl_table": 1,
        "plot_frontier": 1,
        "plot_diversity": 1,
        "plot_temperatures": 1,
        "plot_token_comparison": 4,
        "plot_tokens": sum(len(task["methods"]) for task in tasks.values()),
        "total": sum(count for rule, count in counts.items() if rule != "total"),
    }
    assert memory < 1e9
