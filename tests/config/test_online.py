"""What a config may ask of methods that train on samples of their own policy, and the sentence of each mistake."""

import copy

import pytest
import yaml
from pydantic import ValidationError

from sparsepo.config import TaskConfig
from sparsepo.config.loading import merge, nested

TASK = yaml.safe_load("""
model: {source: scratch, config: {model_type: gpt2, n_embd: 8}}
data: {source: planted, texts: 60, prompts: {train: 6, validation: 8, test: 8}}
sft: {num_train_epochs: 1}
preferences: {source: generated, scorer: {kind: vader}}
methods:
  fdpg: {beta: ["0.1"], divergence: [kl, tv]}
  fdpg_feature: {target_mean: ["0.5"]}
training: {batch_size: 24}
evaluation: {scorer: {kind: vader}, frontier_prompts: 8}
""")
FILE = {"data": {"source": "preferences", "prompts": {"train": 6, "validation": 8, "test": 8}}}
FILE["preferences"] = {"source": "pairs", "hub": {"id": "a/b"}}


def task(**changes):
    own = {key: changes.pop(key) for key in list(changes) if key in TASK}
    return TaskConfig.model_validate(merge(copy.deepcopy(TASK) | own, nested(changes)))


def mistakes(**changes):
    """(place, sentence) of each."""
    with pytest.raises(ValidationError) as refused:
        task(**changes)
    return sentences(refused.value)


def sentences(error):
    return [
        (".".join(map(str, (*one["loc"], *one.get("ctx", {}).get("place", ())))), one["msg"]) for one in error.errors()
    ]


def unscored(**changes):
    """A task whose preferences come from a file and whose evaluation has no scorer."""
    given = copy.deepcopy(TASK) | copy.deepcopy(FILE) | {"evaluation": {}}
    return TaskConfig.model_validate(merge(given, nested(changes)))


def test_a_task_may_have_fewer_prompts_than_responses_a_step_and_defaults_for_all_else():
    made = task()
    assert made.training.on_policy.samples == 4 and made.methods["fdpg"]["divergence"] == ["kl", "tv"]


MISTAKES = {
    "no beta": (
        {"methods": {"fdpg": {"divergence": ["kl"]}}},
        ("methods.fdpg", "method 'fdpg' needs values of 'beta', for example beta: [\"0.1\", \"0.5\"]"),
    ),
    "no mean": (
        {"methods": {"fdpg_feature": {"divergence": ["kl"]}}},
        (
            "methods.fdpg_feature",
            "method 'fdpg_feature' needs values of 'target_mean', for example target_mean: [\"0.5\", \"0.8\"]",
        ),
    ),
    "divergence": (
        {"methods__fdpg__divergence": ["kl", "chi2"]},
        (
            "methods.fdpg.divergence.1",
            "parameter 'divergence' of 'fdpg' must be one of kl, reverse_kl, js, tv, not 'chi2'",
        ),
    ),
    "samples": (
        {"training__on_policy__samples": 7},
        ("training.on_policy.samples", "must divide training.batch_size (24), which counts responses, not 7"),
    ),
    "prompts": (
        {"training__batch_size": 32},
        (
            "data.prompts.train",
            "6 prompts are fewer than the 8 of a step of 'fdpg' (training.batch_size / on_policy.samples)",
        ),
    ),
    "temperature": (
        {"sampling__temperature": 0.7},
        (
            "sampling.temperature",
            "'fdpg' draws at temperature 1, and its divergences are those of such samples: write temperature: 1",
        ),
    ),
    "top_p": (
        {"sampling__top_p": 0.9},
        ("sampling.top_p", "'fdpg' draws at top_p 1, and its divergences are those of such samples: write top_p: 1"),
    ),
    "num_processes": (
        {"training__num_processes": 2},
        ("training", "'fdpg' samples its own policy, in one process: leave num_processes and accelerate out"),
    ),
    "a word with spaces": (
        {"training__on_policy__words": ["good", " great"]},
        ("training.on_policy.words.1", "a word without spaces around it, not ' great'"),
    ),
    "a method on pairs needs a batch of pairs": (
        {"methods__dpo": {"beta": ["0.1"]}},
        ("data.prompts.train", "6 prompts give at most 6 pairs, fewer than one batch of 24 (training.batch_size)"),
    ),
}


@pytest.mark.parametrize("change, expected", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_gets_its_sentence_and_place(change, expected):
    assert mistakes(**change) == [expected]


def test_a_reward_is_needed_but_by_a_feature_of_words():
    with pytest.raises(ValidationError) as refused:
        unscored()
    sentence = "'{}' needs a reward: give preferences.scorer or evaluation.scorer"
    assert sentences(refused.value) == [(f"methods.{name}", sentence.format(name)) for name in ("fdpg", "fdpg_feature")]
    with pytest.raises(ValidationError, match="1 validation error(.|\n)*'fdpg' needs a reward"):
        unscored(training__on_policy__words=["good"])
    assert unscored(evaluation={"scorer": {"kind": "vader"}, "frontier_prompts": 8})
