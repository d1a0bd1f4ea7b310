"""What the workflow tells the page of a config: its runs, and all that changes what a reader sees."""

import json
import shutil

import pytest
import yaml

from sparsepo.config import Config
from sparsepo.config.loading import merge, nested
from sparsepo.workflow import stages
from sparsepo.workflow.stages import Stages

BASE = yaml.safe_load("""
name: small
tasks:
  reviews:
    model: {source: scratch, config: {model_type: gpt2, n_layer: 2, n_embd: 8}}
    data: {source: planted, texts: 60, prompts: {train: 40, validation: 8, test: 8}}
    sft: {num_train_epochs: 1}
    preferences: {source: generated, scorer: {kind: vader}}
    methods:
      dpo: {beta: ["0.5", "0.1"]}
      sparsepo_common: {l1_u: ["0.001"], beta: ["0.1"]}
    seeds: [3, 0]
    training: {batch_size: 10}
    evaluation: {scorer: {kind: vader}, token_pairs: 4, frontier_prompts: 8}
""")
POINTS = ["dpo/beta~0.5", "dpo/beta~0.1", "sparsepo_common/beta~0.1-l1_u~0.001"]


def made(**changes):
    """The stages of BASE, changed as on the command line."""
    below = {f"tasks__reviews__{key}": value for key, value in changes.items()}
    return Stages(Config.model_validate(merge(BASE, nested(below))))


def page(**changes):
    """The settings of the page."""
    return json.loads(made(**changes).settings("build_report"))


def test_the_page_is_told_every_setting_once_and_the_seeds_in_the_config():
    found = page()["tasks"]["reviews"]
    assert (found["points"], found["config"]["seeds"]) == (POINTS, [3, 0])
    runs = [f"{point}/seed~{seed}" for point in found["points"] for seed in found["config"]["seeds"]]
    assert runs == made().runs("reviews", sft=False)


def test_the_page_is_told_what_the_comparison_is():
    found = page(evaluation__baseline="dpo")
    assert found["name"] == "small"
    comparison = made(evaluation__baseline="dpo").settings("compare_methods", "reviews")
    assert found["tasks"]["reviews"]["compare"] | {"csv_bom": False} == json.loads(comparison)
    assert found["tasks"]["reviews"]["compare"]["baseline"] == "dpo"


def test_every_task_has_its_own_part():
    task = BASE["tasks"]["reviews"]
    raw = {**BASE, "tasks": {"first": task, "second": {**task, "methods": {"ipo": {"beta": ["1"]}}}}}
    found = json.loads(Stages(Config.model_validate(raw)).settings("build_report"))["tasks"]
    assert {name: part["points"] for name, part in found.items()} == {"first": POINTS, "second": ["ipo/beta~1"]}


GENERATED = {"generation": {"samples": 2}, "win_rate": {"kind": "nli", "model": "a/b"}, "win_rate_against": ["sft"]}
PROBLEMS = {"source": "problems", "hub": {"id": "a/b"}, "prompts": {"train": 40, "validation": 8, "test": 8}}
PROGRAMS = {"data": PROBLEMS, "preferences": {"source": "executed"}, "evaluation": {"code": {}}}


@pytest.mark.parametrize(
    ("sections", "measures", "sampled"),
    [
        ({}, [], ["samples"]),
        ({"evaluation": GENERATED}, ["win_rate"], ["samples", "generations"]),
        ({"evaluation": GENERATED | {"summaries": {}}}, ["summaries", "win_rate"], ["samples", "generations"]),
        ({"evaluation": {"benchmarks": {"tasks": ["leaderboard"]}}}, ["benchmarks"], ["samples"]),
        (PROGRAMS, ["pass_at_k"], ["samples", "programs"]),
    ],
)
def test_what_is_measured_and_sampled_beside_the_scores_is_named(sections, measures, sampled):
    made = Stages(Config.model_validate({**BASE, "tasks": {"reviews": BASE["tasks"]["reviews"] | sections}}))
    assert json.loads(made.settings("build_report"))["tasks"]["reviews"]["measures"] == measures
    assert made.sampled("reviews") == sampled


@pytest.mark.parametrize(
    "changes",
    [
        {"training__learning_rate": 1e-3},
        {"seeds": [3, 0, 7]},
        {"methods__dpo__beta": ["0.5", "0.2"]},
        {"methods__dpo__beta": ["0.1", "0.5"]},
        {"data__texts": 61},
        {"evaluation__baseline": "dpo"},
        {"evaluation__rows": "settings"},
    ],
    ids=str,
)
def test_a_change_of_the_config_changes_the_page(changes):
    assert page(**changes) != page()


@pytest.mark.parametrize("resources", [{"mem_mb": 9000}, {"runtime": 7}, {"parameters": 1e6, "device": "gpu"}], ids=str)
def test_what_a_scheduler_is_asked_for_does_not(resources):
    assert page(resources=resources) == page()


def test_the_order_of_keys_in_a_task_does_not():
    task = BASE["tasks"]["reviews"]
    turned = {**BASE, "tasks": {"reviews": {key: task[key] for key in reversed(task)}}}
    assert Stages(Config.model_validate(turned)).settings("build_report") == made().settings("build_report")


# --- the files that the page is made of


@pytest.fixture(name="looks")
def _looks(tmp_path, monkeypatch):
    """A copy of the folder of the page, which stages look into instead."""
    copy = tmp_path / "page"
    shutil.copytree(stages.REPORT, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(stages, "REPORT", copy)
    return copy


@pytest.mark.parametrize(
    "name", ["templates/page.html.j2", "templates/parts.html.j2", "static/page.css", "static/core.js"]
)
def test_a_change_of_a_template_a_style_or_a_script_changes_the_page(looks, name):
    before = made().report_file_hashes()
    assert made().report_file_hashes() == before
    path = looks / name
    path.write_text(path.read_text() + " ")
    assert made().report_file_hashes() != before


def test_every_file_that_is_no_python_counts(looks):
    """What is Python counts by its code, without comments and layout."""
    files = [path for path in looks.rglob("*") if path.is_file() and path.suffix != ".py"]
    assert len(files) > 5
    before = {made().report_file_hashes()}
    for path in files:
        path.write_text(path.read_text() + " ")
        before.add(made().report_file_hashes())
    assert len(before) == len(files) + 1


def test_what_python_keeps_of_compiled_code_does_not_count(looks):
    """It comes and goes by itself, and its bytes hold times."""
    before = made().report_file_hashes()
    (looks / "__pycache__").mkdir()
    (looks / "__pycache__/build.cpython-311.pyc").write_bytes(b"compiled")
    assert made().report_file_hashes() == before
