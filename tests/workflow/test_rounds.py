"""Training in rounds as Snakemake plans it, and a run of two rounds that becomes one of three."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
METHODS = """\
    methods:
      dpo: {beta: ["0.1"]}
      sparsepo_common: {beta: ["0.5"]}
"""
ONLY_INPO = '    methods:\n      inpo: {beta: ["0.1"], iterations: "2"}\n'

pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def planned(snakemake):
    """(folder, *arguments) -> the jobs that a dry run would do: {(rule, run, iteration)}."""

    def jobs(folder, *arguments):
        done = snakemake(folder, "-s", ROOT / "Snakefile", "--directory", folder, "-n", "train", *arguments)
        assert done.returncode == 0, done.stdout
        found = set()
        for rule, block in re.findall(r"^rule (\w+):\n((?:    .*\n)*)", done.stdout, re.MULTILINE):
            named = dict(re.findall(r"(\w+)=([^,\s]+)", re.search(r"wildcards: (.*)", block + "wildcards: ")[1]))
            found.add((rule, named.get("run", ""), named.get("iteration", "")))
        return found - {("train", "", "")}

    return jobs


def with_methods(tiny, methods):
    assert METHODS in tiny
    return tiny.replace(METHODS, methods).replace("token_pairs: 4", "token_pairs: 4, frontier_prompts: 8")


def test_rounds_are_planned_as_a_chain_for_each_run_and_shared(planned, tiny, tmp_path):
    methods = '    methods:\n      dpo: {beta: "0.1"}\n      inpo: {beta: ["0.1", "0.2"], iterations: ["1", "2"]}\n'
    (tmp_path / "config.yaml").write_text(with_methods(tiny, methods))
    jobs = planned(tmp_path, "--configfile", tmp_path / "config.yaml")
    shared, rounds = [f"inpo/beta~{beta}/seed~0" for beta in ("0.1", "0.2")], ("1", "2")
    assert {job for job in jobs if job[2]} == {
        (rule, run, number) for rule in ("build_round_pairs", "train_round") for run in shared for number in rounds
    }
    assert {run for rule, run, _ in jobs if rule == "finish_rounds"} == {
        f"inpo/beta~{beta}-iterations~{number}/seed~0" for beta in ("0.1", "0.2") for number in rounds
    }
    assert {run for rule, run, _ in jobs if rule == "train_policy"} == {"dpo/beta~0.1/seed~0"}
    alone = with_methods(tiny, '    methods:\n      inpo: {beta: "0.1"}\n')
    (tmp_path / "config.yaml").write_text(alone)
    rules = {rule for rule, _, _ in planned(tmp_path, "--configfile", tmp_path / "config.yaml")}
    assert rules == {"prepare_data", "train_sft", "build_round_pairs", "train_round", "finish_rounds"}


def test_a_task_without_rounds_plans_none(planned, tiny, tmp_path):
    (tmp_path / "config.yaml").write_text(tiny)
    rules = {rule for rule, _, _ in planned(tmp_path, "--configfile", tmp_path / "config.yaml")}
    assert "train_policy" in rules and not any("round" in rule for rule in rules)


def test_a_run_of_three_rounds_goes_on_from_one_of_two(planned, snakemake, tiny, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(with_methods(tiny, ONLY_INPO))
    where = ("-s", ROOT / "Snakefile", "--directory", tmp_path, "--configfile", config)
    done = snakemake(tmp_path, *where, "--cores", "1", "train")
    assert done.returncode == 0, done.stdout
    run = tmp_path / "results/small/runs/inpo/beta~0.1-iterations~2/seed~0"
    rounds = tmp_path / "results/small/rounds/inpo/beta~0.1/seed~0"
    last = (rounds / "iteration~2/policy/model.safetensors").read_bytes()
    assert (run / "model.safetensors").read_bytes() == last
    assert last != (rounds / "iteration~1/policy/model.safetensors").read_bytes()
    points = [json.loads(line) for line in (run / "frontier.jsonl").read_text().splitlines()]
    assert [(point["iteration"], point["step"]) for point in points] == [(1, 4), (2, 8)]
    prompts = [
        {json.loads(line)["chosen"] for line in (rounds / f"iteration~{number}/pairs.jsonl").read_text().splitlines()}
        for number in (1, 2)
    ]
    assert prompts[0] != prompts[1], "each round is sampled anew"
    assert planned(tmp_path, "--configfile", config) == set()
    shared = "inpo/beta~0.1/seed~0"
    config.write_text(with_methods(tiny, ONLY_INPO.replace('"2"', '["2", "3"]')))
    assert planned(tmp_path, "--configfile", config) == {
        ("build_round_pairs", shared, "3"),
        ("train_round", shared, "3"),
        ("finish_rounds", "inpo/beta~0.1-iterations~3/seed~0", ""),
    }
