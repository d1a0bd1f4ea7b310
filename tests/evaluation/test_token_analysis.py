"""Numbers of a run, worked out by hand or by scikit-learn on made-up records."""

import random

import pytest
from sklearn.metrics import roc_auc_score

from sparsepo.data.encoding import Encoder, TokenPair
from sparsepo.data.records import Completion, Preference
from sparsepo.evaluation.frontier import ScoredSamples
from sparsepo.evaluation.kl import ResponseDivergence
from sparsepo.evaluation.token_analysis import (
    encode_usable,
    logp_change,
    mask_measurements,
    mask_sparsity,
    pair_accuracy,
    planted_auc,
    sample_measurements,
    sample_scores,
    token_records,
)
from sparsepo.models.loading import train_tokenizer
from sparsepo.runtime.errors import UserError

SIDES = ("chosen", "rejected")
TEXTS = ["the film was not very good .", "the plot was dull .", "a film ."]


def tokenizer(kind):
    return train_tokenizer(TEXTS, kind, 300)


def inspected(*lengths):
    """What a look inside one pair gives, as far as it is read here: a number a token."""
    return {
        side: {"logps": [-1.0] * length, "ref_logps": [-2.0] * length}
        for side, length in zip(SIDES, lengths, strict=True)
    }


def record(draw, masks=True):
    """Random numbers with ties, a weight of 0 among them."""
    made = {}
    for side in SIDES:
        length = draw.randint(4, 9)
        names = ("logps", "ref_logps", *(("m_u", "m_d") if masks else ()))
        made[side] = {name: [draw.randint(0, 3) / 2 for _ in range(length)] for name in names}
        made[side]["planted"] = [draw.randint(0, 1) for _ in range(length)]
    return made


# --- tokens as text


def records_of(tokenizer, pair, *sizes, planted=True, **more):
    """The token records of one pair, whose responses have as many tokens as `sizes` says."""
    sides = (Encoder(tokenizer).side_ids(pair, side)[0][:size] for side, size in zip(SIDES, sizes, strict=True))
    return token_records(tokenizer, [pair], [TokenPair([1], *sides)], [inspected(*sizes) | more], planted)[0]


def test_word_tokens_are_told_as_text_with_their_marks():
    """The second response was cut: it has no end."""
    pair = Preference("the plot was", " not very good .", " dull .", rejected_ended=False)
    made = records_of(tokenizer("word"), pair, 5, 2, loss=0.5)
    assert (made["prompt"], made["loss"]) == ("the plot was", 0.5)
    assert made["chosen"]["tokens"] == ["not", "very", "good", ".", "<end>"]
    assert made["chosen"]["planted"] == [1, 0, 1, 0, 0]
    assert made["rejected"]["tokens"] == ["dull", "."]
    assert made["rejected"]["planted"] == [1, 0]
    assert made["rejected"]["ref_logps"] == [-2.0, -2.0]


@pytest.mark.parametrize("text", [" not very good .", "the plot, dull", " café"])
def test_the_pieces_of_byte_level_tokens_make_up_the_text(text):
    bpe = tokenizer("bpe")
    length = len(Encoder(bpe).encode_response("the film was", text, ended=True))
    made = records_of(bpe, Preference("the film was", text, text), length, length - 1)
    assert made["chosen"]["tokens"][-1] == "<end>" != made["rejected"]["tokens"][-1]
    assert made["chosen"]["planted"][-1] == 0
    if text.isascii():  # a letter of several bytes is shown by each of its tokens
        assert "".join(made["rejected"]["tokens"]) == text
    for token, planted in zip(made["rejected"]["tokens"], made["rejected"]["planted"], strict=True):
        assert planted == any(part and part in token for part in ("not", "good", "dull"))


def test_a_response_cut_at_a_limit_shows_the_tokens_it_has():
    made = records_of(tokenizer("word"), Preference("the", " film was good .", " plot"), 2, 2)
    assert made["chosen"]["tokens"] == ["film", "was"]
    assert made["rejected"]["tokens"] == ["plot", "<end>"]


def test_a_response_that_was_sampled_shows_the_tokens_that_were_drawn():
    bpe = tokenizer("bpe")
    drawn = [bpe.convert_tokens_to_ids(letter) for letter in "good"] + [bpe.eos_token_id]
    assert Encoder(bpe).encode_response("film: ", "good", ended=True) != drawn
    pair = Preference("film: ", "good", " dull", chosen_ids=drawn)
    made = records_of(bpe, pair, 5, 3)["chosen"]
    assert (made["tokens"], made["planted"]) == (["g", "o", "o", "d", "<end>"], [1, 1, 1, 1, 0])


def test_of_a_chat_the_last_message_is_shown():
    chat = [
        {"role": "user", "content": "the"},
        {"role": "assistant", "content": "film"},
        {"role": "user", "content": "a"},
    ]
    pair = Preference("<s>the film a", " plot", " film", messages=chat, rendered=True)
    assert records_of(tokenizer("word"), pair, 2, 2)["prompt"] == "User: a"


def test_nothing_is_marked_where_nothing_was_planted():
    made = records_of(tokenizer("word"), Preference("the", "film", "plot"), 2, 2, planted=False)
    assert "planted" not in made["chosen"]


def test_usable_pairs_are_the_first_that_training_could_use():
    pairs = [Preference("the", text, "plot") for text in ("film", "plot", "good", "dull", "was")]
    records, ids = encode_usable(tokenizer("word"), pairs, (9, 9, 32), count=3)
    assert [row.chosen for row in records] == ["film", "good", "dull"]
    assert [pair.chosen[:-1] for pair in ids] == [
        tokenizer("word").convert_tokens_to_ids([text]) for text in ("film", "good", "dull")
    ]


# --- numbers


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_that_of_scikit_learn_over_all_pairs_pooled(seed):
    draw = random.Random(seed)
    records = [record(draw) for _ in range(6)]
    found = planted_auc(records)
    assert set(found) == {"m_u", "m_d", "abs_logratio"}
    for side in SIDES:
        labels = [label for row in records for label in row[side]["planted"]]
        for name in ("m_u", "m_d"):
            weights = [weight for row in records for weight in row[side][name]]
            assert found[name][side] == pytest.approx(roc_auc_score(labels, weights))
        apart = [
            abs(row[side]["logps"][at] - row[side]["ref_logps"][at])
            for row in records
            for at in range(len(row[side]["logps"]))
        ]
        assert found["abs_logratio"][side] == pytest.approx(roc_auc_score(labels, apart))


def selected(values, planted, logratio=0.0):
    """A side of a pair that brings sample_scores, the policy at this distance from the reference."""
    ones = [1.0] * len(values)
    sides = {"values": values, "planted": planted, "logps": [logratio] * len(values), "ref_logps": [0.0] * len(values)}
    return sides | {"m_u": ones, "m_d": ones}


def test_scores_are_ranked_from_the_highest_of_chosen_and_from_the_lowest_of_rejected_responses():
    row = {side: selected([3.0, 1.0, -2.0], [0, 0, 1]) for side in SIDES}
    found = planted_auc([row], "selected")
    assert found["oracle_score"] == {"chosen": 0.0, "rejected": 1.0} and "excess" not in found


def test_the_excess_is_the_score_less_the_way_of_the_policy_on_either_side():
    row = {side: selected([3.0, 2.0, 1.0], [1, 0, 0]) for side in SIDES}
    for side in SIDES:
        row[side]["logps"] = [2.5, 0.0, 0.75]  # excess 0.5, 2, 0.25
    found = planted_auc([row], "excess")
    assert found["excess"] == {"chosen": 0.5, "rejected": 0.5} and "oracle_score" not in found
    assert mask_measurements(found, {})["auc_excess"] == {"values": [0.5], "groups": [0]}


def test_values_that_a_method_does_not_select_by_are_no_signal():
    row = {side: selected([3.0, 1.0], [0, 1]) for side in SIDES}
    assert set(planted_auc([row], "given")) == set(planted_auc([row])) == {"abs_logratio"}


def test_validation_pairs_of_which_none_is_usable_are_a_users_mistake():
    pairs = [Preference("p", " same", " same")]
    with pytest.raises(UserError, match="none of the 1 validation pairs can be analysed; dropped: .*equal"):
        encode_usable(tokenizer("word"), pairs, (8, 8, 32), 4)


def test_auc_by_hand():
    """Chosen: planted tokens above the others, in the log-ratio too, whatever its sign. Rejected: none planted."""
    row = {
        "chosen": {
            "m_u": [0, 2, 3],
            "m_d": [2, 2, 2],
            "logps": [0, -5, 4],
            "ref_logps": [1, 0, 0],
            "planted": [0, 1, 1],
        },
        "rejected": {"m_u": [1], "m_d": [2], "logps": [0], "ref_logps": [0], "planted": [0]},
    }
    assert planted_auc([row]) == {
        "m_u": {"chosen": 1.0, "rejected": None},
        "m_d": {"chosen": 0.5, "rejected": None},
        "abs_logratio": {"chosen": 1.0, "rejected": None},
    }


def test_a_weight_of_1_on_every_token_is_no_mask():
    row = {
        side: {"m_u": [0, 2], "m_d": [1, 1], "logps": [0, 1], "ref_logps": [1, 0], "planted": [0, 1]} for side in SIDES
    }
    assert set(planted_auc([row])) == {"m_u", "abs_logratio"}
    assert mask_sparsity([row]) == {"m_u": {"chosen": 0.5, "rejected": 0.5}}


def test_a_method_without_masks_has_the_auc_of_the_log_ratio_alone_and_no_sparsity():
    records = [record(random.Random(0), masks=False)]
    assert set(planted_auc(records)) == {"abs_logratio"}
    assert mask_sparsity(records) == {}


def test_sparsity_is_the_share_of_zeros_over_all_tokens():
    records = [
        {"chosen": {"m_u": [0.0, 1.0], "m_d": [0.0, 0.0]}, "rejected": {"m_u": [0.5], "m_d": [0.0]}},
        {"chosen": {"m_u": [2.0, 1e-9], "m_d": [1.0, 3.0]}, "rejected": {"m_u": [0.0, 0.0, 1.0], "m_d": [1.0] * 3}},
    ]
    assert mask_sparsity(records) == {
        "m_u": {"chosen": 0.25, "rejected": 0.5},
        "m_d": {"chosen": 0.5, "rejected": 0.25},
    }


def test_the_change_of_log_probability_is_a_mean_of_sums():
    records = [
        {"chosen": {"logps": [-1, -2], "ref_logps": [-2, -3]}, "rejected": {"logps": [-4], "ref_logps": [-1]}},
        {"chosen": {"logps": [-1], "ref_logps": [-5]}, "rejected": {"logps": [-1, -1], "ref_logps": [-1, 0]}},
    ]
    assert logp_change(records) == {"chosen": 3.0, "rejected": -2.0}


def test_scores_are_told_response_by_response():
    """Two prompts; tokens 5 5 6 | 5 6 | 7: three kinds of six tokens, two kinds of three pairs of neighbours."""
    made = ScoredSamples(
        [
            Completion("b", " x", [5, 5, 6], True),
            Completion("a", " y", [5, 6], False),
            Completion("b", " z", [7], True),
        ],
        {"reward": [0.5, 0.25, 1.0], "vader": [1.0, 0.0, 0.5]},
        [ResponseDivergence(1.0, 2.0, -4.0), ResponseDivergence(-1.0, 0.5, -3.5), ResponseDivergence(0.0, 0.0, 0.0)],
    )
    assert sample_scores(made) == {
        "prompt_ids": [0, 1, 0],
        "reward": [0.5, 0.25, 1.0],
        "kl_sample": [1.0, -1.0, 0.0],
        "kl_exact": [2.0, 0.5, 0.0],
        "entropy": [4.0, 3.5, 0.0],
        "length": [3, 2, 1],
        "distinct_1": 3 / 6,
        "distinct_2": 2 / 3,
    }
    assert sample_measurements(made) == {
        "reward": {"values": [0.5, 0.25, 1.0], "groups": [0, 1, 0]},
        "vader": {"values": [1.0, 0.0, 0.5], "groups": [0, 1, 0]},
        "kl": {"values": [2.0, 0.5, 0.0], "groups": [0, 1, 0]},
        "length": {"values": [3, 2, 1], "groups": [0, 1, 0]},
    }


def test_samples_without_a_scorer_have_no_reward_and_no_samples_no_measure():
    made = ScoredSamples([Completion("b", " x", [5], True)], {}, [ResponseDivergence(1.0, 2.0, -1.0)])
    assert sample_scores(made)["reward"] == [] and set(sample_measurements(made)) == {"kl", "length"}
    assert sample_measurements(ScoredSamples([], {"reward": []}, [])) == {}


def test_accuracy_is_the_share_of_pairs_ranked_right_and_a_tie_is_one_half():
    pairs = [(1.0, 0.5), (0.2, 0.9), (0.3, 0.3), (2.0, -2.0)]
    records = [{"reward_chosen": chosen, "reward_rejected": rejected} for chosen, rejected in pairs]
    assert pair_accuracy(records) == {"accuracy": {"values": [1.0, 0.0, 0.5, 1.0], "groups": [0, 1, 2, 3]}}


def test_what_is_known_of_masks_stands_beside_the_rewards():
    auc = {"m_u": {"chosen": 0.75, "rejected": 0.5}, "m_d": {"chosen": None}, "abs_logratio": {"chosen": 0.6}}
    found = mask_measurements(auc, {"m_u": {"chosen": 0.25, "rejected": 0.75}})
    assert found == {"auc_m_u": {"values": [0.75], "groups": [0]}, "zeros_m_u": {"values": [0.5], "groups": [0]}}
    assert mask_measurements({}, {}) == {}
