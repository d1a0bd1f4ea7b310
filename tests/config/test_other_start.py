"""The key `policy`, another model for policies to start from: what is refused, and what it changes for the jobs."""

import json

import pytest
import yaml

from sparsepo.config import Config
from sparsepo.config.loading import load_config, merge, nested
from sparsepo.runtime.errors import UserError
from sparsepo.workflow.estimate import stage_rows
from sparsepo.workflow.stages import Stages

OTHER = {"source": "hub", "id": "owner/model-1b"}
TASK = yaml.safe_load("""
model: {source: hub, id: owner/model-100m}
data: {source: planted, texts: 60, prompts: {train: 40, validation: 8, test: 8}}
preferences: {source: generated, scorer: {kind: vader}}
oracles: {main: {}}
methods: {dpo: {beta: "0.1"}, sepo: {beta: "1", oracle: main}}
training: {batch_size: 10}
evaluation: {scorer: {kind: vader}, frontier_prompts: 8}
resources: {device: cpu}
""")


def raw(**changes):
    return {"name": "small", "tasks": {"t": merge(TASK, nested(changes))}}


def stages(**changes):
    return Stages(Config.model_validate(raw(**changes)))


SCRATCH = {"source": "scratch", "config": {"model_type": "gpt2"}}
START = "policies of '{}' start from the reference: leave 'policy' out, or this method"


@pytest.mark.parametrize(
    "changes, place, message",
    [
        ({"policy": SCRATCH}, "policy.source", "a model from scratch knows nothing: give one of source hub, folder or"),
        ({"policy": OTHER, "methods__inpo": {"beta": "0.1"}}, "methods.inpo", START.format("inpo")),
        ({"policy": OTHER, "methods__fdpg": {"beta": "0.1"}}, "methods.fdpg", START.format("fdpg")),
        ({"policy": OTHER | {"wrap_prompts": True}}, "policy.wrap_prompts", "prompts become text as 'model' says"),
        ({"policy": OTHER | {"trust_remote_code": True}}, "policy.trust_remote_code", "both models are loaded in one"),
        (
            {"policy": OTHER, "training__adapter": {"quantization": "nf4"}},
            "training.adapter.quantization",
            "the reference of a policy that starts from another model is not in 4 bits: write quantization: none",
        ),
    ],
)
def test_a_mistake_gets_its_message(tmp_path, changes, place, message):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(raw(**changes)))
    with pytest.raises(UserError) as caught:
        load_config(path)
    lines = [line.split(": tasks.t.", 1)[1] for line in str(caught.value).split("\n")]
    assert any(line.startswith(f"{place}: {message}") for line in lines), lines


def test_an_adapter_on_full_weights_and_code_that_both_models_bring_are_allowed():
    trusted = {"trust_remote_code": True}
    changes = {"model": trusted, "policy": OTHER | trusted, "training__adapter": {"quantization": "none"}}
    assert stages(**changes).config.tasks["t"].policy.id == OTHER["id"]


def test_the_start_is_loaded_with_its_own_section_and_without_sft():
    made = json.loads(stages(policy=OTHER, sft={"num_train_epochs": 1}).settings("load_policy", "t"))
    assert made["model"]["id"] == OTHER["id"] and made["sft"] is None


def test_settings_of_other_stages_and_of_the_oracles_do_not_change_with_it():
    before, after = stages(), stages(policy=OTHER)
    run = before.runs("t")[1]
    for stage in ("prepare_data", "train_sft", "cache_reference", "train_policy", "evaluate_run"):
        assert before.settings(stage, "t", run) == after.settings(stage, "t", run)
    for stage in ("train_oracle", "score_tokens"):
        assert before.settings(stage, "t", oracle="main") == after.settings(stage, "t", oracle="main")


def test_a_task_without_the_key_is_recorded_as_before_there_was_one():
    assert "policy" not in json.loads(stages().resolved_config("t"))
    assert "policy" not in json.loads(stages(policy=None).settings("build_report"))["tasks"]["t"]["config"]
    assert json.loads(stages(policy=OTHER).resolved_config("t"))["policy"]["id"] == OTHER["id"]


def test_jobs_ask_for_the_larger_of_both_models_and_one_of_unknown_size_is_named(tmp_path, monkeypatch, capsys):
    small, large = stages(), stages(policy=OTHER)
    of = [{row[0]: row for row in stage_rows(made, "t")} for made in (small, large)]
    assert "load_policy" not in of[0] and of[1]["load_policy"][1] == 1
    assert of[1]["train_policy"][3] > 2 * of[0]["train_policy"][3]
    adapted = [
        stages(policy=policy, training__adapter={"rank": 2}) for policy in (None, OTHER | {"id": "o/model-100m"})
    ]
    of += [{row[0]: row for row in stage_rows(made, "t")} for made in adapted]
    assert of[3]["train_policy"][3] > of[2]["train_policy"][3], "an adapter on another model shares no weights"
    assert of[1]["train_oracle main"] == of[0]["train_oracle main"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(raw(policy=OTHER | {"id": "owner/unknown"})))
    Stages.read(["own.yaml"], {})
    assert capsys.readouterr().err.startswith("warning: tasks.t.policy: its number of parameters is not known")
