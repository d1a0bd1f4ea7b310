"""What `snakemake` plans from nothing: every shipped config, every target; and mistakes, before any job starts."""

import json
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = set((ROOT / "configs").rglob("*.yaml")) - set((ROOT / "configs/accelerate").iterdir())
SHIPPED = [ROOT / "config.yaml", *sorted(CONFIGS)]


@pytest.fixture
def from_root(snakemake, tmp_path):
    """(*arguments) -> a dry run of the repository's workflow in a folder elsewhere."""
    return lambda *arguments: snakemake(tmp_path, "-s", ROOT / "Snakefile", "--directory", tmp_path, "-n", *arguments)


def job_counts(done):
    """The table of jobs that a dry run prints, rule -> count."""
    assert done.returncode == 0, done.stdout
    table = done.stdout.rsplit("Job stats:", 1)[1].split("total")[0]
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


# --- plans from nothing


@pytest.mark.parametrize("path", SHIPPED, ids=[str(path.relative_to(ROOT)) for path in SHIPPED])
def test_every_shipped_config_plans_all_its_runs(from_root, tmp_path, path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")  # their paths start at the repository
    tasks = yaml.safe_load(path.read_text())["tasks"]
    for task in tasks.values():  # data that a user brings
        for section in (task["data"], task["preferences"]):
            if "path" in section and not (tmp_path / section["path"]).exists():
                (tmp_path / section["path"]).write_text("")
    counts = job_counts(from_root("--configfile", path))
    runs = sum(
        len(task.get("seeds", [0])) * points(grid) for task in tasks.values() for grid in task["methods"].values()
    )
    assert sum(counts.get(rule, 0) for rule in ("train_policy", "train_on_policy", "finish_rounds")) == runs
    assert counts["train_sft"] == counts["make_grid_table"] == len(tasks)
    assert counts["sample_responses"] == counts["evaluate_run"] == runs + len(tasks)
    for part, rule in PARTS.items():
        asked = sum(part in task["evaluation"] for task in tasks.values())
        assert counts.get(rule, 0) == (runs // len(tasks) + 1) * asked
    assert counts["build_report"] == 1
    assert counts.get("fit_scorer", 0) == ("kind: tfidf" in path.read_text())


PARTS = {
    "generation": "sample_generations",
    "summaries": "measure_summaries",
    "win_rate": "measure_win_rate",
    "benchmarks": "measure_benchmarks",
    "code": "measure_pass_at_k",
}


def points(grid):
    """The number of points of a grid, or of several."""
    if isinstance(grid, list):
        return sum(map(points, grid))
    count = 1
    for values in grid.values():
        count *= len(values) if isinstance(values, list) else 1
    return count


def test_the_default_is_taken_when_no_config_is_named(from_root):
    counts = job_counts(from_root())
    methods = yaml.safe_load((ROOT / "config.yaml").read_text())["tasks"]["planted"]["methods"]
    assert counts["train_policy"] == sum(map(points, methods.values())) and counts["plot_tokens"] == len(methods)


def test_a_config_that_is_named_replaces_the_default_whole(tiny, from_root, tmp_path):
    (tmp_path / "own.yaml").write_text(tiny)
    done = from_root("--configfile", "own.yaml")
    counts = job_counts(done)
    assert counts["train_policy"] == 2 and counts["prepare_data"] == 1 and "results/planted/" not in done.stdout


def test_a_value_of_the_command_line_replaces_one_of_the_default(from_root):
    one = job_counts(from_root())
    two = job_counts(from_root("--config", "tasks__planted__seeds=[0,1]"))
    assert two["train_policy"] == 2 * one["train_policy"] and two["sample_responses"] == 2 * one["train_policy"] + 1
    assert two["train_sft"] == two["build_preferences"] == two["make_grid_table"] == 1


CHAIN = {"prepare_data": 1, "train_sft": 1, "build_preferences": 1, "cache_reference": 1, "train_policy": 2}
SCORES = {**CHAIN, "sample_responses": 3, "evaluate_run": 3}
ALL = {**SCORES, "make_grid_table": 1, "make_matched_kl_table": 1, "make_auc_table": 1, "compare_methods": 1}
FIGURES = {"plot_frontier": 1, "plot_diversity": 1, "plot_dynamics": 1, "plot_tokens": 2, "plot_token_comparison": 1}
TARGETS = {
    "data": {"prepare_data": 1},
    "sft": {"prepare_data": 1, "train_sft": 1},
    "preferences": {"prepare_data": 1, "train_sft": 1, "build_preferences": 1},
    "train": CHAIN,
    "samples": {**CHAIN, "sample_responses": 3},
    "scores": SCORES,
    "measures": SCORES,
    "tables": ALL,
    "figures": {**SCORES, **FIGURES},
    "report": {**SCORES, "build_report": 1},
    "all": {**ALL, **FIGURES, "build_report": 1},
}


@pytest.mark.parametrize(("target", "jobs"), TARGETS.items(), ids=TARGETS)
def test_a_target_plans_what_it_needs_and_no_more(tiny, from_root, tmp_path, target, jobs):
    (tmp_path / "own.yaml").write_text(tiny)
    counts = job_counts(from_root(target, "--configfile", "own.yaml"))
    assert {rule: count for rule, count in counts.items() if rule != target} == jobs


ON_POLICY = """
      fdpg: {beta: ["0.1", "0.2"], divergence: [kl, js]}
      fdpg_feature: {target_mean: ["0.5"]}
"""


def test_methods_on_samples_of_their_policy_need_no_pairs_to_train(tiny, from_root, tmp_path):
    both = tiny.replace('dpo: {beta: ["0.1"]}', 'dpo: {beta: ["0.1"]}' + ON_POLICY.rstrip())
    both = both.replace("batch_size: 10, learning_rate: 1e-3,", "batch_size: 12, learning_rate: 1e-3,")
    (tmp_path / "both.yaml").write_text(both)
    counts = job_counts(from_root("train", "--configfile", "both.yaml"))
    counts.pop("train")
    assert counts == {**CHAIN, "train_on_policy": 5}
    own = ON_POLICY.strip("\n")
    alone = re.sub(r"    methods:\n(      .*\n)+", f"    methods:\n{own}\n", both)
    (tmp_path / "alone.yaml").write_text(alone)
    counts = job_counts(from_root("train", "--configfile", "alone.yaml"))
    counts.pop("train")
    assert counts == {"prepare_data": 1, "train_sft": 1, "train_on_policy": 5}
    counts = job_counts(from_root("--configfile", "alone.yaml"))
    assert counts["evaluate_run"] == counts["sample_responses"] == 6 and counts["build_preferences"] == 1


# --- mistakes


def refused(done, *sentences):
    """Exit code 1, the sentences, no stack trace and no job."""
    assert done.returncode == 1, done.stdout
    for sentence in sentences:
        assert sentence in done.stdout
    assert "Traceback" not in done.stdout and "Job stats" not in done.stdout and "rule " not in done.stdout


def test_a_mistake_in_a_config_ends_the_plan_with_its_sentence(tiny, from_root, tmp_path):
    (tmp_path / "own.yaml").write_text(tiny.replace("dpo:", "dp0:").replace("texts: 60", "texts: 0"))
    refused(
        from_root("--configfile", "own.yaml"),
        "own.yaml:9: tasks.small.data.texts: must be greater than 0, not 0\n",
        "own.yaml:13: tasks.small.methods.dp0: unknown key; allowed: dpo, ",
        "; did you mean 'dpo'?\n",
    )
    assert not (tmp_path / "results").exists()


def test_a_mistake_on_the_command_line_is_blamed_on_it(from_root):
    done = from_root("--config", "tasks__planted__sede=[0,1]")
    refused(done, "--config: tasks.planted.sede: unknown key; allowed: ", "; did you mean 'seeds'?\n")


def test_the_path_of_a_preference_file_can_be_given_on_the_command_line(tiny, from_root, tmp_path):
    task = {"preferences": {"source": "scored", "path": "elsewhere.jsonl"}}
    task["data"] = {"source": "preferences", "prompts": {"validation": 2, "test": 8}}
    config = yaml.safe_load(tiny)
    config["tasks"]["small"] |= task
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "mine.jsonl").write_text("")
    refused(from_root("--configfile", "own.yaml"), "preferences.path: no such file: elsewhere.jsonl")
    given = "tasks__small__preferences__path=mine.jsonl"
    assert job_counts(from_root("--configfile", "own.yaml", "--config", given))["train_policy"] == 2


def test_a_missing_file_of_the_user_ends_the_plan(tiny, from_root, tmp_path):
    pairs = "{source: pairs, path: no/pairs.jsonl}"
    text = re.sub(r"preferences: \{.*", f"preferences: {pairs}", tiny)
    (tmp_path / "own.yaml").write_text(text)
    refused(from_root("--configfile", "own.yaml"), "own.yaml:11: tasks.small.preferences.path: no such file")


# --- a stage that fails


def test_a_broken_line_in_a_file_of_the_user_is_told_by_the_stage_that_reads_it(snakemake, tiny, tmp_path):
    row = json.dumps({"prompt": "a b", "chosen": "c", "rejected": "d"})
    (tmp_path / "pairs.jsonl").write_text(f'{row}\n{row}\n{{"prompt": "a b", "chosen": "c"\n{row}\n')
    config = yaml.safe_load(tiny)
    task = config["tasks"]["small"]
    task["preferences"] = {"source": "pairs", "path": "pairs.jsonl"}
    task["data"] = {"source": "preferences", "prompts": {"train": 20, "validation": 8, "test": 8}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    done = snakemake(
        *(tmp_path, "-s", ROOT / "Snakefile", "--directory", tmp_path, "--configfile", "own.yaml", "--cores", "1"),
        *("preferences", "--retries", "1"),
    )
    log = (tmp_path / "logs/small/prepare_data.log").read_text()
    sentence = "error: pairs.jsonl:3: not valid JSON (Expecting ',' delimiter); one object a line is expected\n"
    assert done.returncode == 1 and log.endswith(sentence)
    assert sentence in done.stdout and "Traceback" not in done.stdout
    assert not (tmp_path / "results/small/corpus.jsonl").exists()
    assert re.findall(r"runtime=(\d+), mem_mb=(\d+)", done.stdout) == [("30", "4000"), ("60", "8000")], (
        "a retry gets more"
    )
