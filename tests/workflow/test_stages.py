"""What the workflow asks of a config: which runs there are, and what can change what each stage makes."""

import itertools
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save

from sparsepo.config import Config
from sparsepo.config.loading import load_with_owners, merge, nested
from sparsepo.config.runs import Run, find_run, runs_of
from sparsepo.methods.registry import METHODS
from sparsepo.monitor.plan_file import note_end, read_plan, write_plan
from sparsepo.report.run_names import RUN_STAGES
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.files import file_hash
from sparsepo.workflow import user_files
from sparsepo.workflow.settings import TrainSftSettings
from sparsepo.workflow.stages import Stages, check_owner

BASE = yaml.safe_load("""
name: small
tasks:
  reviews:
    model: {source: scratch, config: {model_type: gpt2, n_layer: 2, n_embd: 8}}
    data: {source: planted, texts: 60, prompts: {train: 40, validation: 8, test: 8}}
    sft: {num_train_epochs: 1}
    preferences: {source: generated, scorer: {kind: vader}}
    methods:
      dpo: {beta: ["0.1", "0.5"]}
      sparsepo_common: {l1_u: ["0.001"], beta: ["0.1"]}
    seeds: [0, 3]
    training: {batch_size: 10}
    evaluation: {scorer: {kind: vader}, token_pairs: 4, frontier_prompts: 8}
""")
RUNS = [
    "dpo/beta~0.1/seed~0",
    "dpo/beta~0.1/seed~3",
    "dpo/beta~0.5/seed~0",
    "dpo/beta~0.5/seed~3",
    "sparsepo_common/beta~0.1-l1_u~0.001/seed~0",
    "sparsepo_common/beta~0.1-l1_u~0.001/seed~3",
]
STAGES = (
    *("prepare_data", "train_sft", "build_preferences", "train_policy", "sample_responses", "evaluate_run"),
    *("make_grid_table", "make_matched_kl_table", "make_auc_table", "compare_methods"),
)
TABLES = {"make_grid_table": [], "make_matched_kl_table": [], "make_auc_table": [], "compare_methods": []}


def stages(**changes):
    """The stages of BASE, changed as on the command line."""
    below = {f"tasks__reviews__{key}": value for key, value in changes.items()}
    return Stages(Config.model_validate(merge(BASE, nested(below))))


def parsed(stage, run="sft", **changes):
    return json.loads(stages(**changes).settings(stage, "reviews", run))


def changed_by(**changes):
    """Stages whose settings differ -> the runs, of stages of runs: {'train_policy': ['dpo/...'], 'train_sft': []}."""
    before, after = stages(), stages(**changes)
    found = {}
    for stage in STAGES:
        runs = {"train_policy": RUNS, "evaluate_run": ["sft", *RUNS]}.get(stage, ["sft"])
        known = set(after.runs("reviews"))
        differ = [
            run
            for run in runs
            if run in known and before.settings(stage, "reviews", run) != after.settings(stage, "reviews", run)
        ]
        if differ:
            found[stage] = differ if stage in ("train_policy", "evaluate_run") else []
    return found


# --- runs


def test_the_runs_are_the_grid_times_the_seeds_in_the_order_of_the_config():
    assert stages().runs("reviews") == ["sft", *RUNS]
    assert stages().runs("reviews", sft=False) == RUNS


def test_a_grid_of_several_parameters_is_their_product():
    task = stages(methods__tdpo2={"beta": ["1", "2"], "alpha": ["0.5", "0.7", "0.9"]}).config.tasks["reviews"]
    points = [run.point for run in runs_of(task) if run.method == "tdpo2" and run.seed == 0]
    assert points == [f"alpha~{alpha}-beta~{beta}" for beta, alpha in itertools.product("12", ("0.5", "0.7", "0.9"))]


def test_a_path_names_the_parameters_sorted_and_as_written():
    run = Run("mapo", (("activation_sites", "mlp+residual"), ("beta", "1e-05"), ("form", "released")), 7)
    assert run.path == "mapo/activation_sites~mlp+residual-beta~1e-05-form~released/seed~7"
    assert run.hyper == {"activation_sites": ("mlp", "residual"), "beta": 1e-05, "form": "released"}


def test_every_run_is_found_by_its_path():
    task = stages().config.tasks["reviews"]
    assert [find_run(task, path).path for path in RUNS] == RUNS


def test_a_run_keeps_its_path_when_others_are_added():
    more = stages(methods__ipo={"beta": ["0.1"]}, seeds=[3, 0, 9], methods__dpo={"beta": ["2", "0.5", "0.1"]})
    assert set(RUNS) < set(more.runs("reviews"))


def test_the_patterns_match_the_runs_and_nothing_else():
    pattern = stages().run_pattern
    assert all(re.fullmatch(pattern, run) for run in ["sft", *RUNS])
    assert not re.fullmatch(pattern, RUNS[0].replace("0.1", "0x1"))
    assert not re.fullmatch(pattern, "dpo/beta~0.2/seed~0")
    assert not re.fullmatch(pattern, "dpo/beta~0.1/seed~1")


def test_the_first_run_of_a_method_is_that_of_its_first_point_and_seed():
    assert stages().first_run("reviews", "sparsepo_common", other="wildcard") == RUNS[4]


def test_a_plan_has_the_watched_jobs_of_a_start_in_the_order_of_the_config():
    jobs = [("train_policy", "reviews", run, run == RUNS[2]) for run in reversed(RUNS)]
    jobs += [("evaluate_run", "reviews", run, True) for run in (RUNS[0], "sft")]
    jobs += [("make_grid_table", "reviews", "", True), ("train_sft", "reviews", "", False)]
    jobs += [("cache_reference", "reviews", "states", True)]
    plan = stages().plan(jobs, process=7, host="node1", local=True, started=5.0)
    assert (plan.configs, plan.process, plan.host, plan.local, plan.started) == (["small"], 7, "node1", True, 5.0)
    assert plan.ended is None and list(plan.tasks) == ["reviews"]
    made = plan.tasks["reviews"]
    assert list(made) == ["train_sft", "cache_reference", "train_policy", "evaluate_run"]
    assert list(made["train_policy"].items()) == [(run, run == RUNS[2]) for run in RUNS]
    assert list(made["evaluate_run"]) == ["sft", RUNS[0]]
    assert made["train_sft"] == {"": False} and made["cache_reference"] == {"states": True}


def test_a_plan_is_read_as_it_was_written_and_its_end_is_noted(tmp_path):
    plan = stages().plan([("train_sft", "reviews", "", True)], process=7, host="node1", local=True, started=5.0)
    write_plan(tmp_path, plan)
    assert read_plan(tmp_path) == plan
    note_end(tmp_path, 9.5)
    assert read_plan(tmp_path) == replace(plan, ended=9.5)
    (tmp_path / "plan.json").unlink()
    note_end(tmp_path, 9.5)
    assert not (tmp_path / "plan.json").exists(), "a plan that somebody removed is no reason to fail"


# --- settings


def test_each_stage_reads_what_it_needs():
    prepare = parsed("prepare_data")
    lengths = {"max_prompt_tokens", "max_new_tokens"}
    assert set(prepare) == {"name", "data", "preferences", "model", "execution", "columns"} | lengths
    assert prepare["preferences"] is None and "seed" not in prepare["model"]
    assert (
        parsed("train_sft")["sft"]["num_train_epochs"] == 1 and parsed("train_sft")["model"]["config"]["n_layer"] == 2
    )
    assert parsed("build_preferences")["preferences"]["sampling"]["samples"] == 2
    assert parsed("sample_responses")["sampling"]["max_new_tokens"] == 64
    train = parsed("train_policy", RUNS[5])
    assert (train["method"], train["seed"]) == ("sparsepo_common", 3)
    made = {
        "beta": 0.1,
        "form": "paper",
        "mask": "layers",
        "l1_u": 0.001,
        "l1_d": 0.0,
        "init": "ones",
        "normalise": "none",
    }
    assert train["hyper"] == made and train["training"]["batch_size"] == 10
    assert train["definition"]["loss"] == "sparsepo" and train["definition"]["share"] == "common"
    evaluate = parsed("evaluate_run", RUNS[5])
    head = evaluate["header"]
    assert head["params"] == {"beta": "0.1", "l1_u": "0.001"} and evaluate["hyper"] == train["hyper"]
    assert (head["task"], head["run"], head["seed"], evaluate["planted"]) == ("reviews", RUNS[5], 3, True)


@pytest.mark.parametrize(
    "changes, cached",
    [
        ({}, ("states",)),
        ({"training__log_kl": False}, ("logps",)),
        ({"training__reference": "online"}, ()),
        ({"training__adapter": {"rank": 4}}, ("states",)),
        ({"training__adapter": {"quantization": "nf4"}}, ()),
    ],
)
def test_what_a_run_reads_of_the_reference_instead_of_running_it(changes, cached):
    """Learned masks run it; the cache is of the full-precision model, so policies of 4 bits do too."""
    made = stages(**changes)
    assert made.reference_caches("reviews", RUNS[0]) == cached
    assert made.reference_caches("reviews", RUNS[4]) == ()


def test_a_reference_of_4_bits_is_sampled_and_measured_as_it_is_and_policies_as_they_were_merged():
    nf4 = {"quantization": "nf4", "compute": "bfloat16"}
    changes = {"training__adapter": {"quantization": "nf4"}, "training__precision": "bfloat16"}
    sample, evaluate = parsed("sample_responses", **changes), parsed("evaluate_run", **changes)
    assert sample["loading"] == evaluate["policy_loading"] == evaluate["reference_loading"] == nf4
    sample, evaluate = parsed("sample_responses", RUNS[0], **changes), parsed("evaluate_run", RUNS[0], **changes)
    assert sample["loading"] == evaluate["policy_loading"] == {} and evaluate["reference_loading"] == nf4
    assert parsed("evaluate_run")["reference_loading"] == {}


def test_the_reference_is_evaluated_without_a_method():
    head = parsed("evaluate_run")["header"]
    assert (head["run"], head["method"], head["seed"], head["params"]) == ("sft", "sft", None, {})


def test_settings_with_a_wrong_missing_or_unknown_field_are_an_error():
    given = parsed("train_sft")
    for wrong, place in (
        ({**given, "loss": 1}, "loss: "),
        ({key: given[key] for key in given if key != "loading"}, "loading: "),
        ({**given, "sft": {**given["sft"], "batch_size": "many"}}, "sft.batch_size: "),
    ):
        with pytest.raises(UserError, match=f"^--settings: {place}.+$"):
            TrainSftSettings.parse(json.dumps(wrong))


def test_settings_do_not_depend_on_the_order_of_keys_in_the_config():
    task = BASE["tasks"]["reviews"]
    turned = {**BASE, "tasks": {"reviews": {key: task[key] for key in reversed(task)}}}
    there = Stages(Config.model_validate(turned))
    for stage in STAGES:
        assert there.settings(stage, "reviews", RUNS[0]) == stages().settings(stage, "reviews", RUNS[0])


def test_another_beta_changes_that_run_alone():
    assert changed_by(methods__dpo__beta=["0.1", "0.7"]) == TABLES
    after = stages(methods__dpo__beta=["0.1", "0.7"])
    assert [run for run in after.runs("reviews") if run not in stages().runs("reviews")] == [
        "dpo/beta~0.7/seed~0",
        "dpo/beta~0.7/seed~3",
    ]


def test_another_seed_changes_no_run_that_was_there():
    assert changed_by(seeds=[0, 3, 4]) == TABLES


def test_another_method_changes_no_run_that_was_there():
    assert changed_by(methods__ipo={"beta": ["1"]}) == TABLES


def test_training_settings_reach_the_training_alone():
    assert changed_by(training__learning_rate=1e-3) == {"train_policy": RUNS, **TABLES}


def test_limits_of_length_reach_training_and_evaluation_which_cut_alike():
    assert changed_by(training__max_response_tokens=9) == {
        "train_policy": RUNS,
        "evaluate_run": ["sft", *RUNS],
        **TABLES,
    }


def test_another_default_of_a_method_changes_the_runs_that_take_it(monkeypatch):
    before = {
        stage: {run: stages().settings(stage, "reviews", run) for run in RUNS}
        for stage in ("train_policy", "evaluate_run")
    }

    def changed(**fields):
        with monkeypatch.context() as patch:
            patch.setitem(METHODS, "sparsepo_common", replace(METHODS["sparsepo_common"], **fields))
            after = {stage: {run: stages().settings(stage, "reviews", run) for run in RUNS} for stage in before}
        return {(stage, run) for stage in before for run in RUNS if before[stage][run] != after[stage][run]}

    row, own = METHODS["sparsepo_common"], {(stage, run) for stage in before for run in RUNS[4:]}
    assert changed(masks={**row.masks, "l1_d": 0.5}) == changed(loss="tdpo1") == changed(kl="forward") == own
    assert changed(masks={**row.masks, "l1_u": 0.5}) == changed(hyper={**row.hyper, "beta": 9.0}) == set()  # given
    assert changed(equation="another", source="another") == set()


def test_sampling_reaches_the_training_only_when_points_of_the_frontier_are_measured():
    assert changed_by(sampling__temperature=0.7) == {"sample_responses": [], **TABLES}
    with_points = {stage: stages(training__frontier_every=5).settings(stage, "reviews", RUNS[0]) for stage in STAGES}
    other = stages(training__frontier_every=5, sampling__temperature=0.7)
    assert {stage for stage in STAGES if other.settings(stage, "reviews", RUNS[0]) != with_points[stage]} == {
        *("train_policy", "sample_responses", *TABLES)
    }


def test_the_number_of_samples_never_retrains():
    """Points of the frontier take one response a prompt, whatever the final sampling takes."""
    one, four = (stages(training__frontier_every=5, sampling__samples=count) for count in (1, 4))
    assert one.settings("train_policy", "reviews", RUNS[0]) == four.settings("train_policy", "reviews", RUNS[0])
    assert one.settings("sample_responses", "reviews") != four.settings("sample_responses", "reviews")


def test_evaluation_settings_reach_the_stages_that_use_them():
    everywhere = ["sft", *RUNS]
    assert changed_by(evaluation__token_pairs=5) == {"evaluate_run": everywhere, **TABLES}
    assert changed_by(evaluation__frontier_prompts=5) == TABLES
    one, other = (stages(training__frontier_every=5, evaluation__frontier_prompts=count) for count in (4, 5))
    assert one.settings("train_policy", "reviews", RUNS[0]) != other.settings("train_policy", "reviews", RUNS[0])
    one, other = (stages(training__frontier_every=5, evaluation__token_pairs=count) for count in (4, 5))
    assert one.settings("train_policy", "reviews", RUNS[0]) == other.settings("train_policy", "reviews", RUNS[0])


def test_data_sft_and_preferences_are_each_their_own():
    assert changed_by(data__texts=61) == {"prepare_data": [], **TABLES}
    assert changed_by(sft__num_train_epochs=2) == {"train_sft": [], **TABLES}
    assert changed_by(model__seed=5) == {"train_sft": [], **TABLES}
    assert changed_by(preferences__sampling__samples=3) == {"build_preferences": [], **TABLES}


def test_what_a_scheduler_is_asked_for_changes_no_result():
    assert changed_by(resources__mem_mb=9000) == {}
    assert changed_by(resources__parameters=1e6, resources__device="gpu") == {}


def test_resources_that_the_config_gives_are_taken():
    given = stages(resources={"mem_mb": 9000, "runtime": 7})
    assert given.resources("train_policy", "reviews") == {"mem_mb": 9000, "runtime": 7}
    assert given.resources("make_grid_table", "reviews") == {"mem_mb": 2000, "runtime": 20}


def test_one_task_does_not_touch_another():
    second = Stages(
        Config.model_validate(merge(BASE, {"tasks": {"other": {**BASE["tasks"]["reviews"], "seeds": [9]}}}))
    )
    for stage in STAGES:
        assert second.settings(stage, "reviews", RUNS[0]) == stages().settings(stage, "reviews", RUNS[0])
    assert second.runs("other", sft=False)[0] == "dpo/beta~0.1/seed~9"


# --- several configs at once


def test_configs_given_together_make_what_each_makes_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    for path, task in zip(paths, ("first", "second"), strict=True):
        path.write_text(yaml.safe_dump({"name": path.stem, "tasks": {task: BASE["tasks"]["reviews"]}}))
    both = Stages.read(paths, {})
    assert both.tasks == ["first", "second"]
    for path, task in zip(paths, both.tasks, strict=True):
        alone = Stages.read([path], {})
        assert alone.runs(task) == both.runs(task)
        for stage in STAGES:
            assert alone.settings(stage, task, RUNS[0]) == both.settings(stage, task, RUNS[0])


def test_a_task_belongs_to_the_last_file_with_a_name_that_speaks_of_it(tmp_path):
    paths = [tmp_path / f"{name}.yaml" for name in ("base", "seeds", "other")]
    seeds = {"tasks": {"reviews": {"seeds": [1, 2]}}}
    for path, raw in zip(paths, (BASE, seeds, {"name": "other", **seeds}), strict=True):
        path.write_text(yaml.safe_dump(raw))
    assert load_with_owners(paths[:2])[1] == {"reviews": "small"}
    assert load_with_owners(paths)[1] == {"reviews": "other"}
    assert load_with_owners(paths, {"name": "mine"})[1] == {"reviews": "mine"}


# --- files of the user


def from_files(tmp_path, **changes):
    pairs = tmp_path / "pairs.jsonl"
    section = {"source": "pairs", "path": str(pairs)}
    data = {"source": "preferences", "prompts": {"validation": 8, "test": 8}}
    task = {**BASE["tasks"]["reviews"], "preferences": section, "data": data, **changes}
    return pairs, lambda: Stages(Config.model_validate({"name": "small", "tasks": {"reviews": task}}))


def hashes_of(stages):
    names = ("prepare_data", "build_preferences")
    settings = {stage: json.loads(stages.settings(stage, "reviews")) for stage in names}
    return {stage: files["user_files"] for stage, files in settings.items() if "user_files" in files}


def test_hashes_of_user_files_follow_the_content_of_a_file_and_nothing_else(tmp_path):
    pairs, make = from_files(tmp_path)
    pairs.write_text("first\n")
    before = hashes_of(make())
    os.utime(pairs, (1, 1))
    assert before and hashes_of(make()) == before
    pairs.write_text("other\n")
    assert hashes_of(make()) != before
    pairs.write_text("first\n")
    assert hashes_of(make()) == before


def test_both_text_and_preference_files_count(tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text("one\n")
    data = {"source": "texts", "path": str(texts), "prompts": {"validation": 8, "test": 8}}
    _, make = from_files(tmp_path, data=data, preferences=BASE["tasks"]["reviews"]["preferences"])
    before = hashes_of(make())
    texts.write_text("two\n")
    assert hashes_of(make()) != before


def test_files_of_a_folder_and_of_validation_and_test_count(tmp_path):
    folder, test = tmp_path / "saved", tmp_path / "test.jsonl"
    folder.mkdir()
    (folder / "dataset_info.json").write_text("{}")
    test.write_text("one\n")
    data = {
        "source": "texts",
        "path": str(folder),
        "prompts": {"validation": 8, "test": 8},
        "test": {"path": str(test)},
    }
    _, make = from_files(tmp_path, data=data, preferences=BASE["tasks"]["reviews"]["preferences"])
    hashes = [hashes_of(make())]
    for path in (folder / "data-00000-of-00001.arrow", test):
        path.write_text("two\n")
        hashes.append(hashes_of(make()))
        assert hashes[-1] not in hashes[:-1]


def test_a_task_without_files_has_no_hashes_of_user_files():
    assert "user_files" not in parsed("prepare_data") and "user_files" not in parsed("build_report")


def model_folder(folder, size=2_500_000):
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(save({"weight": np.zeros(size, np.uint8)}))
    (folder / "README.md").write_text("a model")
    return folder


def named_files(tmp_path):
    """A config that names a model, scorers, a judge, weights and an accelerate file, with the stages that read each."""
    made = {name: model_folder(tmp_path / name) for name in ("model", "scorer", "judge", "encoder", "nli")}
    conv, accelerate = tmp_path / "conv.bin", tmp_path / "ddp.yaml"
    conv.write_bytes(bytes(2_500_000))
    accelerate.write_text("distributed_type: MULTI_GPU\nmixed_precision: bf16")
    own = {name: str(path) for name, path in made.items()}
    scorer = {"kind": "reward_model", "model": own["scorer"]}
    evaluation = {
        **BASE["tasks"]["reviews"]["evaluation"],
        "extra_scorers": {"other": scorer},
        "win_rate": {"kind": "nli", "model": own["judge"]},
        "win_rate_against": ["sft"],
        "generation": {"samples": 2},
        "summaries": {
            "bertscore": {"model": own["encoder"], "layers": 1},
            "entailment": {"model": own["nli"], "conv": str(conv)},
        },
    }
    changes = {
        "model": {"source": "folder", "path": own["model"]},
        "preferences": {"source": "generated", "scorer": scorer},
        "training": {"batch_size": 10, "num_processes": 2, "accelerate": str(accelerate)},
        "evaluation": evaluation,
    }
    readers = {
        made["model"] / "model.safetensors": {"prepare_data", "train_sft"},
        made["scorer"] / "model.safetensors": {"build_preferences", "evaluate_run"},
        made["judge"] / "model.safetensors": {"measure_win_rate"},
        made["encoder"] / "model.safetensors": {"measure_summaries"},
        made["nli"] / "config.json": {"measure_summaries"},
        conv: {"measure_summaries"},
        accelerate: {"train_policy"},
    }
    task = {**BASE["tasks"]["reviews"], **changes}
    return readers, lambda: Stages(Config.model_validate({"name": "small", "tasks": {"reviews": task}}))


def test_a_changed_model_scorer_judge_or_file_is_seen_by_the_stages_that_read_it(tmp_path, monkeypatch):
    """By its content alone, above a megabyte too: with an older time and the same size it is another one; touched,
    copied to the same place, or with another README it is the same."""
    monkeypatch.chdir(tmp_path)
    readers, make = named_files(tmp_path)
    names = sorted(set().union(*readers.values()))

    def now():
        user_files._stored_hashes.cache_clear()  # as in another process
        run = RUNS[0]
        return {stage: json.loads(make().settings(stage, "reviews", run)).get("user_files") for stage in names}

    before = now()
    assert all(before.values())
    for path in readers:
        os.utime(path)
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    for folder in tmp_path.glob("*/README.md"):
        folder.write_text("another text")
    assert now() == before
    for path, stages_of_path in readers.items():
        content = path.read_bytes()
        path.write_bytes(content[:-4] + b"fp16")
        os.utime(path, (1, 1))
        after = now()
        assert {stage for stage in names if after[stage] != before[stage]} == stages_of_path, path
        path.write_bytes(content)
    assert now() == before


def test_an_unchanged_large_file_is_not_read_again_by_the_next_plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = model_folder(tmp_path / "model") / "model.safetensors"
    monkeypatch.setattr(user_files.time, "time", lambda: path.stat().st_ctime + 3)
    before = user_files.path_hash(path.parent)
    user_files._stored_hashes.cache_clear()
    monkeypatch.setattr(user_files, "file_hash", lambda file: {"config.json": file_hash(file)}[file.name])
    assert user_files.path_hash(path.parent) == before
    os.utime(path)
    with pytest.raises(KeyError):
        user_files.path_hash(path.parent)


def test_the_base_of_an_adapter_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base, adapter = model_folder(tmp_path / "base", 9), tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    before = user_files.path_hash(adapter)
    (base / "model.safetensors").write_bytes(b"another")
    assert user_files.path_hash(adapter) != before


# --- results of another config


def stamp(folder, text):
    path = Path(folder, "results", "reviews", "data.json")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_no_results_and_own_results_are_fine(tmp_path):
    check_owner(tmp_path / "data.json", "small")
    check_owner(stamp(tmp_path, '{"config": "small", "train": 40}'), "small")


def test_results_of_another_config_are_refused_with_what_to_do(tmp_path):
    path = stamp(tmp_path, '{"config": "big"}')
    with pytest.raises(UserError) as caught:
        check_owner(path, "small")
    assert str(caught.value) == (
        f"{path.parent} holds results of the config named 'big', and this one is named 'small': work in another folder "
        "(snakemake --directory), rename the task, or remove that folder"
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "12", '"small"', "null"])
def test_a_file_that_is_no_stamp_is_refused(tmp_path, text):
    path = stamp(tmp_path, text)
    with pytest.raises(UserError, match="data.json: not a stamp of sparsepo; is .*/results/reviews a results folder"):
        check_owner(path, "small")


def test_reading_a_config_refuses_the_results_of_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(BASE))
    assert Stages.read([config], {}).tasks == ["reviews"]
    stamp(tmp_path, '{"config": "big"}')
    with pytest.raises(UserError, match="results/reviews holds results of the config named 'big'"):
        Stages.read([config], {})
    assert Stages.read([config], {"name": "big"}).config.name == "big"


# --- methods on samples of their policy

WITH_FDPG = {
    "methods__fdpg": {"beta": ["0.1"], "divergence": ["kl", "js"]},
    "methods__fdpg_feature": {"target_mean": ["0.6"]},
    "training__batch_size": 12,
}
FDPG, FEATURE = "fdpg/beta~0.1-divergence~js/seed~0", "fdpg_feature/target_mean~0.6/seed~3"


def test_each_run_is_trained_by_the_rule_of_its_method():
    made = stages(**WITH_FDPG)
    runs, on_pairs, own = (
        made.runs("reviews", sft=False),
        made.run_pattern_of("pairs"),
        made.run_pattern_of("on_policy"),
    )
    assert [run for run in runs if re.fullmatch(on_pairs, run)] == RUNS
    assert [run for run in runs if re.fullmatch(own, run)] == runs[len(RUNS) :] and FDPG in runs and FEATURE in runs
    none = (stages().run_pattern_of("on_policy"), stages().round_pattern, stages().oracle_pattern)
    assert not any(re.fullmatch(pattern, text) for pattern in none for text in ["", "main", *runs])


def of_fdpg(run, stage="train_on_policy", **changes):
    return json.loads(stages(**WITH_FDPG | changes).settings(stage, "reviews", run))


@pytest.mark.parametrize(
    "change, seen",
    [
        ({"training__on_policy__samples": 6}, {FDPG, FEATURE}),
        ({"sampling__max_new_tokens": 20}, {FDPG, FEATURE}),
        ({"training__learning_rate": 1e-3}, {FDPG, FEATURE}),
        ({"training__on_policy__words": ["good"]}, {FEATURE}),
        ({"training__on_policy__fit_samples": 64}, {FEATURE}),
        ({"preferences__scorer": {"kind": "classifier", "model": "m"}}, {FDPG, FEATURE}),
        ({"evaluation__scorer": {"kind": "classifier", "model": "m"}}, set()),
        ({"sampling__samples": 3}, set()),
        ({"sampling__seed": 3}, set()),
        ({"training__log_kl": False}, set()),
        ({"training__layout": "padded"}, set()),
        ({"training__validate_every": 5}, set()),
        ({"training__mask_learning_rate": 1.0}, set()),
    ],
)
def test_a_run_on_samples_of_its_policy_sees_what_can_change_it(change, seen):
    assert {run for run in (FDPG, FEATURE) if of_fdpg(run, **change) != of_fdpg(run)} == seen


def test_runs_on_pairs_never_see_the_section_of_the_others():
    runs = ["train_policy", "evaluate_run"]
    before, after = stages(**WITH_FDPG), stages(**WITH_FDPG, training__on_policy__samples=6)
    assert all(
        before.settings(stage, "reviews", RUNS[0]) == after.settings(stage, "reviews", RUNS[0]) for stage in runs
    )


def test_dpo_looks_into_pairs_for_them_at_their_beta():
    made = of_fdpg(FDPG, "evaluate_run")
    assert made["method"] == "dpo" and made["hyper"] == {"beta": 0.1} and made["header"]["method"] == "fdpg"
    assert of_fdpg(FEATURE, "evaluate_run")["hyper"] == {"beta": METHODS["dpo"].hyper["beta"]}
    assert made["header"]["label"] == "f-DPG" and of_fdpg(RUNS[0], "evaluate_run")["method"] == "dpo"


def test_their_trainings_are_watched_as_trainings():
    jobs = [("train_on_policy", "reviews", FDPG, True), ("train_policy", "reviews", RUNS[0], True)]
    planned = stages(**WITH_FDPG).plan(jobs, process=1, host="h", local=True, started=0.0).tasks["reviews"]
    assert planned == {"train_policy": {RUNS[0]: True}, "train_on_policy": {FDPG: True}}
    assert set(planned) <= set(RUN_STAGES)


def test_nothing_of_the_reference_is_cached_for_them():
    assert (
        stages(**WITH_FDPG).reference_caches("reviews", FDPG)
        == ()
        == stages(**WITH_FDPG).reference_caches("reviews", FEATURE)
    )


def test_files_of_a_mixture_count(tmp_path):
    more = tmp_path / "more.jsonl"
    more.write_text("one\n")
    pairs, make = from_files(tmp_path)
    pairs.write_text("first\n")
    mixed = {"source": "pairs", "path": str(pairs), "mixture": [{"source": "scored", "path": str(more)}]}
    _, make = from_files(tmp_path, preferences=mixed)
    before = hashes_of(make())
    more.write_text("two\n")
    assert hashes_of(make()) != before


def test_a_judge_whose_key_is_not_set_is_told_in_the_plan(tmp_path, monkeypatch, capsys):
    judge = {
        "kind": "endpoint",
        "url": "http://127.0.0.1:1/v1",
        "model": "m",
        "asks": "dialogue",
        "api_key_env": "A_KEY",
    }
    own = yaml.safe_load(yaml.safe_dump(BASE))
    own["tasks"]["reviews"]["evaluation"] |= {"generation": {}, "win_rate": judge, "win_rate_against": ["sft"]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("A_KEY", raising=False)
    Stages.read(["own.yaml"], {})
    assert "warning: tasks.reviews: a judge needs the environment variable A_KEY" in capsys.readouterr().err
    monkeypatch.setenv("A_KEY", "secret")
    Stages.read(["own.yaml"], {})
    assert "A_KEY" not in capsys.readouterr().err
