"""What a config says of rounds: which runs share them, what their settings depend on, and what is refused."""

import json
import re

import pytest
import yaml

from sparsepo.config import Config
from sparsepo.config.loading import load_config, merge, nested
from sparsepo.config.runs import find_run
from sparsepo.runtime.errors import UserError
from sparsepo.workflow.stages import Stages

BASE = yaml.safe_load("""
name: small
tasks:
  reviews:
    model: {source: scratch, config: {model_type: gpt2, n_layer: 2, n_embd: 8}}
    data: {source: planted, texts: 60, prompts: {train: 40, validation: 8, test: 8}}
    sft: {num_train_epochs: 1}
    preferences: {source: generated, scorer: {kind: vader}, sampling: {samples: 6, max_new_tokens: 9, temperature: 0.7}}
    methods:
      dpo: {beta: ["0.1"]}
      inpo: {beta: ["0.1", "0.2"], iterations: ["2", "3"]}
    seeds: [0, 3]
    training: {batch_size: 10}
    sampling: {samples: 2, max_new_tokens: 12}
    evaluation: {scorer: {kind: vader}, token_pairs: 4, frontier_prompts: 8}
""")
LONG, SHORT, SHARED = (f"inpo/beta~0.1{rest}/seed~3" for rest in ("-iterations~3", "-iterations~2", ""))
OF_ROUNDS = ("build_round_pairs", "train_round")


def stages(**changes):
    """The stages of BASE, changed as on the command line."""
    below = {f"tasks__reviews__{key}": value for key, value in changes.items()}
    return Stages(Config.model_validate(merge(BASE, nested(below))))


def parsed(stage, run=SHARED, **changes):
    return json.loads(stages(**changes).settings(stage, "reviews", run))


# --- runs and rounds


def test_runs_that_differ_in_their_number_of_rounds_share_them():
    assert stages().rounds("reviews", SHORT) == (SHARED, [1, 2])
    assert stages().rounds("reviews", LONG) == (SHARED, [1, 2, 3])
    assert stages(methods__inpo={"beta": "0.1"}).rounds("reviews", SHARED) == (SHARED, [1, 2, 3])


def test_what_is_shared_is_found_by_its_path_and_is_no_run():
    made = find_run(stages().config.tasks["reviews"], SHARED)
    assert (made.path, made.hyper, made.seed) == (SHARED, {"beta": 0.1}, 3)
    assert SHARED not in stages().runs("reviews")
    assert re.fullmatch(stages().round_pattern, SHARED) and not re.fullmatch(stages().round_pattern, LONG)


def test_each_run_has_one_trainer():
    found = {trainer: stages().run_pattern_of(trainer) for trainer in ("pairs", "rounds")}
    for run in stages().runs("reviews", sft=False):
        assert [name for name, pattern in found.items() if re.fullmatch(pattern, run)] == [
            "rounds" if run.startswith("inpo/") else "pairs"
        ]
    without = Stages(_without_inpo())
    assert not any(re.fullmatch(without.run_pattern_of("rounds"), run) for run in ["", *stages().runs("reviews")])


def _without_inpo(**changes):
    task = BASE["tasks"]["reviews"] | {"methods": {"dpo": {"beta": "0.1"}}}
    return Config.model_validate(BASE | {"tasks": {"reviews": task | changes}})


def test_the_reference_is_not_cached_for_rounds_and_the_figure_is_theirs_alone():
    caches = {run: stages().reference_caches("reviews", run) for run in (LONG, "dpo/beta~0.1/seed~0")}
    assert list(caches.values()) == [(), ("states",)]
    assert "rounds" in stages().figures("reviews") and "rounds" not in Stages(_without_inpo()).figures("reviews")


# --- what a round depends on


def changed_by(**changes):
    """The stages, and runs of these, whose settings differ."""
    looked = {stage: (SHARED,) for stage in OF_ROUNDS} | {
        "evaluate_run": (LONG, "sft"),
        "train_policy": ("dpo/beta~0.1/seed~0",),
    }
    before, after = stages(), stages(**changes)
    pairs = [(stage, run) for stage, runs in looked.items() for run in runs]
    return {(s, r) for s, r in pairs if before.settings(s, "reviews", r) != after.settings(s, "reviews", r)}


def test_another_number_of_rounds_changes_no_round():
    assert changed_by(methods__inpo__iterations=["2", "3", "5"]) == set()
    for stage in ("build_round_pairs", "train_round"):
        assert stages().settings(stage, "reviews", SHARED) == stages(methods__inpo__iterations="7").settings(
            stage, "reviews", SHARED
        )
        longer = stages(methods__inpo__iterations="7")
        assert stages().code_version(stage, "reviews", SHARED) == longer.code_version(stage, "reviews", SHARED)


def test_a_ratio_changes_training_and_what_is_about_other_runs_nothing():
    assert parsed("train_round")["hyper"]["ratio"] == pytest.approx(1 / 3)
    with_ratio = stages(methods__inpo__ratio="0.5")
    run = "inpo/beta~0.1-ratio~0.5/seed~3"
    assert json.loads(with_ratio.settings("train_round", "reviews", run))["hyper"]["ratio"] == 0.5
    assert with_ratio.settings("build_round_pairs", "reviews", run) == stages().settings(
        "build_round_pairs", "reviews", SHARED
    )
    dpo = "dpo/beta~0.1/seed~0"
    assert with_ratio.settings("train_policy", "reviews", dpo) == stages().settings("train_policy", "reviews", dpo)


def test_settings_of_rounds_change_no_other_training():
    assert changed_by(training__rounds__samples=8) == {("build_round_pairs", SHARED)}
    assert changed_by(training__learning_rate=1e-5) == {
        ("train_round", SHARED),
        ("train_policy", "dpo/beta~0.1/seed~0"),
    }


def test_a_round_samples_as_generated_preferences_do_and_with_their_scorer():
    made = parsed("build_round_pairs")
    assert made["sampling"] == {"samples": 6, "max_new_tokens": 9, "temperature": 0.7, "top_p": 1.0, "batch_size": 64}
    assert made["judge"] == {"kind": "scorer", "scorer": {"kind": "vader"}} and made["seed"] == 3
    judge = {"kind": "nli", "model": "some/model"}
    assert parsed("build_round_pairs", training__rounds__judge=judge)["judge"]["model"] == "some/model"


def test_a_round_is_measured_at_its_end_where_there_is_a_scorer():
    assert parsed("train_round")["training"]["frontier_every"] == 2**31 - 1
    assert parsed("train_round", training__frontier_every=5)["training"]["frontier_every"] == 5
    assert parsed("train_round")["frontier"]["scorer"] == {"kind": "vader"}
    bare = stages(evaluation={"scorer": None}, training__rounds__judge={"kind": "scorer", "scorer": {"kind": "vader"}})
    made = json.loads(bare.settings("train_round", "reviews", SHARED))
    assert made["training"]["frontier_every"] == 0 and made["frontier"] is None


def test_dpo_stands_in_where_pairs_of_the_sft_model_are_looked_into():
    made = parsed("evaluate_run", LONG)
    assert made["method"] == "dpo" and made["hyper"]["beta"] == 0.1 and made["header"]["label"] == "INPO"
    assert "ratio" not in made["hyper"] and "iterations" not in made["hyper"]


# --- mistakes

OVER = "tasks.reviews."
MISTAKES = {
    "validation": (
        {"training__validate_every": 5},
        "training.validate_every: method 'inpo' makes its own pairs and holds none out: write validate_every: 0",
    ),
    "4 bits": (
        {"training__adapter": {"quantization": "nf4"}},
        "training.adapter.quantization: 'inpo' continues from merged weights, which are not in 4 bits: "
        "write quantization: none",
    ),
    "one sample": ({"training__rounds__samples": 1}, "training.rounds.samples: a pair needs at least 2 samples"),
    "a fitted scorer without documents": (
        {"training__rounds__judge": {"kind": "scorer", "scorer": {"kind": "tfidf"}}},
        "training.rounds.judge.scorer: a tfidf scorer is fitted to data.labelled documents",
    ),
    "half a round": (
        {"methods__inpo__iterations": ["2.5"]},
        'methods.inpo.iterations[0]: must be a valid integer, not "2.5"',
    ),
    "no round": (
        {"methods__inpo__iterations": "0"},
        'methods.inpo.iterations: must be greater than or equal to 1, not "0"',
    ),
    "a mask of the pairs' own numbers": (
        {"methods__inpo__mask": "given"},
        "methods.inpo.mask: must be 'none', 'layers',",
    ),
    "too few test prompts": (
        {"evaluation__frontier_prompts": 9},
        "evaluation.frontier_prompts: at most the 8 test prompts (data.prompts.test) can be sampled, not 9",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_rounds_cannot_do_is_told_before_any_job(tmp_path, mistake):
    changes, message = MISTAKES[mistake]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(BASE))
    load_config(tmp_path / "config.yaml")
    with pytest.raises(UserError) as told:
        load_config(tmp_path / "config.yaml", {f"tasks__reviews__{key}": value for key, value in changes.items()})
    assert message in str(told.value)


def test_a_section_that_no_method_reads_is_refused():
    with pytest.raises(ValueError, match="no method of this task trains in rounds: leave it out"):
        _without_inpo(training={"batch_size": 10, "rounds": {"samples": 8}})


def test_without_scorer_and_judge_nothing_can_rank_the_samples(tmp_path):
    (tmp_path / "own.jsonl").write_text("")
    data = {"source": "preferences", "prompts": {"validation": 8, "test": 8}}
    preferences = {"source": "pairs", "path": str(tmp_path / "own.jsonl")}
    task = BASE["tasks"]["reviews"] | {"data": data, "preferences": preferences, "evaluation": {"token_pairs": 4}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(BASE | {"tasks": {"reviews": task}}))
    with pytest.raises(UserError) as told:
        load_config(tmp_path / "config.yaml")
    wanted = "training.rounds.judge: method 'inpo' ranks samples of its own: give a judge, or evaluation.scorer"
    assert wanted in str(told.value)
    load_config(tmp_path / "config.yaml", {"tasks__reviews__training__rounds__judge": {"kind": "nli", "model": "m"}})
