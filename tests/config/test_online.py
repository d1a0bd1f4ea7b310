"""What a config may ask of methods that train on samples of their own policy, and the message of each mistake."""

import pytest
import yaml

from sparsepo.config.loading import load_config, merge, nested
from sparsepo.runtime.errors import UserError

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


UNSCORED = FILE | {"evaluation": {}}  # preferences from a file, and no scorer


@pytest.fixture
def load(tmp_path):
    """(**changes of TASK) -> the task; a whole section, or single values as on the command line."""
    path = tmp_path / "config.yaml"

    def load(**changes):
        sections = {key: changes.pop(key) for key in list(changes) if key in TASK}
        task = merge(TASK | sections, nested(changes))
        path.write_text(yaml.safe_dump({"name": "small", "tasks": {"t": task}}))
        return load_config(path).tasks["t"]

    return load


@pytest.fixture
def errors(load):
    """(**changes) -> the errors that the task gets, without file and line."""

    def errors(**changes):
        with pytest.raises(UserError) as refused:
            load(**changes)
        return [line.split(": tasks.t.", 1)[1] for line in str(refused.value).split("\n")]

    return errors


def test_a_task_may_have_fewer_prompts_than_responses_a_step_and_defaults_for_all_else(load):
    made = load()
    assert made.training.on_policy.samples == 4 and made.methods["fdpg"][0]["divergence"] == ["kl", "tv"]


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
            "methods.fdpg.divergence[1]",
            "must be 'kl', 'reverse_kl', 'js' or 'tv', not \"chi2\"",
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
        ("training.on_policy.words[1]", "must be a word without spaces around it, not ' great'"),
    ),
    "a method on pairs needs a batch of pairs": (
        {"methods__dpo": {"beta": ["0.1"]}},
        ("data.prompts.train", "6 prompts give at most 6 pairs, fewer than one batch of 24 (training.batch_size)"),
    ),
}


@pytest.mark.parametrize("change, expected", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_gets_its_message_and_place(errors, change, expected):
    assert errors(**change) == [": ".join(expected)]


def test_a_reward_is_needed_but_by_a_feature_of_words(load, errors):
    message = "methods.{0}: '{0}' needs a reward: give preferences.scorer or evaluation.scorer"
    assert errors(**UNSCORED) == [message.format(name) for name in ("fdpg", "fdpg_feature")]
    assert errors(**UNSCORED, training__on_policy__words=["good"]) == [message.format("fdpg")]
    assert load(**UNSCORED | {"evaluation": {"scorer": {"kind": "vader"}, "frontier_prompts": 8}})
