"""AUC of token signals against both truths, by hand and by scikit-learn on made-up records."""

import random

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from sparsepo.evaluation.planted_auc import CEILING, COMPARISONS, CONTROLS, method_signals, planted_auc

SIDES = ("chosen", "rejected")
SIGNALS = ("m_u", "m_d", "abs_logratio", *CONTROLS, CEILING)


def record(draw):
    """Random numbers with ties; words are slots, slots are open."""
    made = {}
    for side in SIDES:
        length = draw.randint(6, 9)
        names = ("logps", "ref_logps", "ref_entropy", "relevance_chance", "m_u", "m_d")
        made[side] = {name: [draw.randint(0, 3) / 2 for _ in range(length)] for name in names}
        kind = [draw.randint(0, 3) for _ in range(length)]  # 0 of the frame, 1 an irrelevant slot, 2 a slot, 3 a word
        made[side] |= {"planted": [int(k == 3) for k in kind], "planted_slots": [int(k >= 2) for k in kind]}
        made[side]["open_slots"] = [int(k >= 1) for k in kind]
    return made


def pooled(records, field):
    return np.array([value for row in records for side in SIDES for value in row[side][field]], dtype=float)


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_that_of_scikit_learn_over_both_responses_of_all_pairs_pooled(seed):
    records = [record(random.Random(10 * seed + number)) for number in range(6)]
    found = planted_auc(records, SIGNALS)
    assert tuple(found) == SIGNALS and all(set(found[signal]) == set(COMPARISONS) for signal in SIGNALS)
    lengths = [len(row[side]["logps"]) for row in records for side in SIDES]
    scores = {
        "m_u": pooled(records, "m_u"),
        "m_d": pooled(records, "m_d"),
        "abs_logratio": abs(pooled(records, "logps") - pooled(records, "ref_logps")),
        "entropy": pooled(records, "ref_entropy"),
        "surprisal": -pooled(records, "ref_logps"),
        "position": np.concatenate([np.arange(length) for length in lengths]),
        "ceiling": pooled(records, "relevance_chance"),
    }
    words, slots, opened = (pooled(records, name) for name in ("planted", "planted_slots", "open_slots"))
    every = np.ones(len(words))
    compared = {"words": (words, every), "slots": (slots, every)}
    compared |= {"words_among_slots": (words, opened), "slots_among_slots": (slots, opened)}
    for signal, values in scores.items():
        for name, (labels, among) in compared.items():
            expected = roc_auc_score(labels[among == 1], values[among == 1])
            assert found[signal][name]["auc"] == pytest.approx(expected, abs=1e-12)
            assert found[signal][name]["low"] <= expected <= found[signal][name]["high"]


def side(**fields):
    length = len(fields["planted"])
    zeros = dict.fromkeys(("logps", "ref_logps", "ref_entropy", "relevance_chance"), [0.0] * length)
    return zeros | {"planted_slots": fields["planted"], "open_slots": [1] * length} | fields


def test_auc_by_hand():
    """m_u: the two words, 3 and 1, against 0, 2, 2: 3 + 1 of 6 pairs."""
    row = {"chosen": side(planted=[1, 0, 1], m_u=[3, 0, 1]), "rejected": side(planted=[0, 0], m_u=[2, 2])}
    assert planted_auc([row], ["m_u"])["m_u"]["words"]["auc"] == pytest.approx(4 / 6)


def test_a_word_outside_the_slots_counts_among_them_too():
    row = {"chosen": side(planted=[1, 0, 0], planted_slots=[0, 0, 0], open_slots=[0, 1, 0], m_u=[1, 0, 9])}
    row["rejected"] = row["chosen"]
    found = planted_auc([row], ["m_u"])["m_u"]
    assert {name: values["auc"] for name, values in found.items()} == {"words_among_slots": 1.0, "words": 0.5}


def test_random_numbers_find_nothing_and_are_the_same_each_time():
    draw = random.Random(0)
    records = [record(draw) for _ in range(300)]
    found = planted_auc(records, ["random"])
    assert found == planted_auc(records, ["random"])
    assert all(0.45 < values["auc"] < 0.55 for values in found["random"].values())


def test_scores_are_ranked_from_the_highest_of_chosen_and_from_the_lowest_of_rejected_responses():
    """Chosen 3, 1, -2: the word has the least. Rejected: it has the most of 2, -1, -3 negated, 3, 1, -2."""
    row = {
        "chosen": side(values=[3.0, 1.0, -2.0], planted=[0, 0, 1]),
        "rejected": side(values=[2.0, -1.0, -3.0], planted=[0, 0, 1]),
    }
    # words -2 and 3; the others 3, 1, -2, 1: 0 + half a pair, and 3 + half a pair, of 4 each
    assert planted_auc([row], ["oracle_score"])["oracle_score"]["words"]["auc"] == pytest.approx((0.5 + 3.5) / 8)


def test_the_excess_is_the_score_less_the_way_of_the_policy_on_either_side():
    """Excess 0.5, 2, 0.25 of the chosen and 2, 0.5, 0.25 of the rejected response."""
    row = {
        "chosen": side(values=[3.0, 2.0, 1.0], planted=[1, 0, 0], logps=[2.5, 0.0, 0.75]),
        "rejected": side(values=[2.0, 2.0, 1.0], planted=[0, 1, 0], logps=[0.0, 1.5, 0.75]),
    }
    # words 0.5 and 0.5, the others 2, 0.25, 2, 0.25
    assert planted_auc([row], ["excess"])["excess"]["words"]["auc"] == 0.5


def test_a_run_has_its_masks_its_log_ratio_and_what_it_selects_by():
    row = {name: side(planted=[1, 0], m_u=[0, 2], m_d=[1, 1]) for name in SIDES}
    assert method_signals([row]) == method_signals([row], "given") == ["m_u", "abs_logratio"]
    assert method_signals([row], "selected") == ["m_u", "abs_logratio", "oracle_score"]
    assert method_signals([row], "excess") == ["m_u", "abs_logratio", "excess"]


def test_without_relevant_tokens_there_is_no_auc():
    row = {name: side(planted=[0, 0]) for name in SIDES}
    assert planted_auc([row], ["entropy"]) == {"entropy": {}}
