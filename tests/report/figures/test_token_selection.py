"""The figure of runs that select tokens by an oracle's scores."""

import numpy as np
import pytest

from sparsepo.data.records import Preference
from sparsepo.report.figures.token_selection import TOKEN_SHARES, Oracle, accumulated, plot_selection, reward_panels

PAIRS = [Preference("p", "a b", "c", chosen_values=[2.0, -1.0], rejected_values=[-3.0])]


def score(method, reward, **params):
    return {
        "method": method,
        "label": method.upper(),
        "params": params,
        "seed": 0,
        "prompt_ids": [0, 1, 2, 3],
        "reward": [reward - 0.1, reward, reward, reward + 0.1],
        "kl_sample": [0.0] * 4,
        "kl_exact": [0.0] * 4,
        "entropy": [36.0] * 4,
        "length": [3] * 4,
        "distinct_1": 0.5,
        "distinct_2": 0.5,
        "auc": {},
        "sparsity": {},
        "logp_change": {},
    }


def oracle(share=1.0, parameters=100):
    return Oracle(share, parameters, PAIRS)


def means(panel):
    lines = panel.rows.groupby("label", sort=False)
    return {name: [(x, pytest.approx(mean)) for x, mean in rows[["x", "mean"]].values] for name, rows in lines}


# --- accumulation


def test_scores_add_up_from_the_highest_to_the_lowest():
    curve = accumulated([[-1.0, 3.0, 0.0, 1.0]])  # sorted 3, 1, 0, -1; sum of sizes 5
    assert curve[[0, 25, 50, 75, 100]] == pytest.approx([0, 3 / 5, 4 / 5, 4 / 5, 3 / 5])
    assert curve[10] == pytest.approx(0.4 * 3 / 5)  # 0.4 of the first token


def test_responses_of_unlike_lengths_count_by_their_scores():
    curve = accumulated([[4.0], [1.0, 1.0]])
    assert curve == pytest.approx(TOKEN_SHARES)
    assert accumulated([[4.0], [-1.0, -1.0]])[[50, 100]] == pytest.approx([(2 - 1) / 6, (4 - 2) / 6])


def test_scores_of_nothing_but_zero_are_a_flat_line():
    assert not accumulated([[0.0, 0.0]]).any()


# --- panels


def test_there_is_a_panel_for_each_thing_that_has_two_values():
    oracles = {"a": oracle(), "b": oracle(share=0.5), "c": oracle(parameters=10)}
    runs = [score("sepo", 0.1 * at, oracle=name, k_chosen=k) for at, (name, k) in enumerate(
        [("a", "0.1"), ("a", "0.3"), ("b", "0.3"), ("c", "0.3")])]  # fmt: skip
    labels = [panel.label for panel in reward_panels([score("sft", 0.0), *runs], oracles)]
    assert labels == [
        "share of chosen tokens kept, k",
        "weights of the oracle",
        "share of the data that the oracle saw",
    ]
    assert reward_panels([score("sft", 0.0), runs[0]], {"a": oracle()}) == []


def test_the_reward_stands_against_k_a_line_an_oracle_and_a_run_that_says_no_k_takes_the_default():
    runs = [
        score("sepo", 0.5, oracle="a", beta="1", k_chosen="0.6"),
        score("sepo", 0.2, oracle="a", beta="1"),
        score("sepo", 0.4, oracle="b", beta="1", k_chosen="1"),
    ]
    (panel,) = reward_panels(runs, {"a": oracle(), "b": oracle()})
    assert means(panel) == {"SEPO, oracle=a": [(0.3, 0.2), (0.6, 0.5)], "SEPO, oracle=b": [(1.0, 0.4)]}


def test_size_and_data_are_told_apart():
    oracles = {"a": oracle(), "b": oracle(share=0.5), "c": oracle(parameters=10), "d": oracle(0.5, 7)}
    runs = [score("sepo", 0.1 * at, oracle=name) for at, name in enumerate("abcd")]
    size, data = reward_panels(runs, oracles)
    assert means(size) == {"SEPO": [(10, 0.2), (100, 0.0)]} and size.logarithmic
    assert means(data) == {"SEPO": [(0.5, pytest.approx(0.1)), (1.0, 0.0)]}


def test_seeds_are_pooled_and_methods_are_lines_of_their_own():
    made = [("sepo", "0.1", 0), ("sepo", "0.1", 1), ("dpo", "0.2", 0)]
    runs = [score(method, at, oracle="a", k_chosen=k) | {"seed": seed} for at, (method, k, seed) in enumerate(made)]
    (panel,) = reward_panels(runs, {"a": oracle()})
    assert means(panel) == {"SEPO": [(0.1, 0.5)], "DPO": [(0.2, 2.0)]}


def test_without_a_reward_the_scores_alone_are_drawn(read_panels):
    runs = [{**score("sepo", 0.0, oracle="a", k_chosen=k), "reward": []} for k in ("0.1", "0.2")]
    assert reward_panels(runs, {"a": oracle()}) == []
    (panel,) = read_panels(plot_selection(runs, {"a": oracle()}))
    sides = {side: rows["y"].to_numpy() for side, rows in panel.rows.groupby("side")}
    assert sides["chosen"][[50, 100]] == pytest.approx([2 / 3, 1 / 3])
    np.testing.assert_allclose(sides["rejected"], -TOKEN_SHARES)


def test_every_panel_is_drawn_with_the_level_of_sft(read_panels):
    oracles = {"a": oracle(), "b": oracle(share=0.5)}
    runs = [score("sft", 0.25), score("sepo", 0.1, oracle="a"), score("sepo", 0.2, oracle="b")]
    _, data = read_panels(plot_selection(runs, oracles))
    rows = data.rows.set_index("label")
    assert rows.loc["SEPO", "x"].tolist() == [0.5, 1.0] and rows.loc["SEPO", "mean"].tolist() == pytest.approx(
        [0.2, 0.1]
    )
    assert data.rows[data.rows["label"].isna()]["mean"].tolist() == pytest.approx([0.25, 0.25])  # the rule and its name


def test_the_figure_is_the_same_each_time(assert_renders_alike):
    oracles = {"a": oracle(parameters=1000), "b": oracle(parameters=10)}
    runs = [score("sft", 0.25), score("sepo", 0.1, oracle="a"), score("sepo", 0.2, oracle="b")]
    assert_renders_alike(lambda: plot_selection(runs, oracles))
