"""The workflow as a module of another one: its config, its paths, and what it leaves alone."""

import re
import shutil
import subprocess
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
TASK = {
    "model": {"source": "scratch", "config": {"model_type": "gpt2", "n_positions": 64}},
    "data": {"source": "planted", "texts": 60, "prompts": {"train": 40, "validation": 8, "test": 12}},
    "sft": {"num_train_epochs": 1},
    "preferences": {
        "source": "generated",
        "scorer": {"kind": "vader"},
        "sampling": {"samples": 2, "max_new_tokens": 10},
    },
    "methods": {"dpo": {"beta": ["0.1"]}},
    "training": {"batch_size": 10},
    "sampling": {"max_new_tokens": 10},
    "evaluation": {"scorer": {"kind": "vader"}, "frontier_prompts": 8},
}
AROUND = """
import yaml
module first:
    snakefile: {snakefile!r}
    config: yaml.safe_load(open("first.yaml"))
    prefix: "first"
use rule * from first as first_*
module second:
    snakefile: {snakefile!r}
    config: yaml.safe_load(open("second.yaml"))
    prefix: "second"
use rule * from second as second_*
rule words:
    default_target: True
    input: "first/results/a/data.json", "second/results/b/data.json"
    output: "words.txt"
    shell: "words='a b'; for word in $words; do echo $word; done > {{output}}"
"""


def snakemake(folder, *options):
    command = [shutil.which("snakemake"), "--cores", "2", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def workflow_around(folder):
    (folder / "Snakefile").write_text(AROUND.format(snakefile=str(ROOT / "Snakefile")))
    for name, task in (("first", "a"), ("second", "b")):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "tasks": {task: TASK}}))


def test_two_modules_write_where_they_are_told_and_leave_the_shell_of_other_rules_alone(tmp_path):
    workflow_around(tmp_path)
    done = snakemake(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for path in ("first/results/a/prompts/train.jsonl", "second/results/b/prompts/train.jsonl"):
        assert len((tmp_path / path).read_text().splitlines()) == 40
    assert (tmp_path / "words.txt").read_text() == "a\nb\n"
    folders = [path for path in tmp_path.rglob("*") if path.is_dir() and ".snakemake" not in path.parts]
    assert not (tmp_path / "results").exists() and all(any(folder.iterdir()) for folder in folders)


def test_the_commands_of_a_module_have_its_prefix_in_every_path(tmp_path):
    workflow_around(tmp_path)
    plan = snakemake(tmp_path, "-n", "-p", "--", "first/results/tables/a.md")
    assert plan.returncode == 0, plan.stdout + plan.stderr
    commands = [line for line in plan.stdout.splitlines() if "SPARSEPO_JOB" in line]
    assert len(commands) > 7 and not [line for line in commands if re.search("[ ']results/", line)]
    (training,) = [line for line in commands if "train_policy.py" in line]
    assert "--checkpoint 'first/results/a/runs/dpo/beta~0.1/seed~0/checkpoint'" in training


def test_a_mistake_in_the_config_of_a_module_is_one_line(tmp_path):
    workflow_around(tmp_path)
    (tmp_path / "second.yaml").write_text(yaml.safe_dump({"name": "second", "tasks": {"b": TASK | {"seeds": ["x"]}}}))
    refused = snakemake(tmp_path, "-n")
    assert refused.returncode != 0
    (line,) = [line for line in refused.stderr.splitlines() if "tasks.b.seeds" in line]
    assert line.startswith("config: tasks.b.seeds[0]: must be") and "Traceback" not in refused.stderr
