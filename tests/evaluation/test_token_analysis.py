"""Numbers of a run, worked out by hand on made-up records."""

import pytest

from sparsepo.data.encoding import Encoder, TokenPair
from sparsepo.data.records import Completion, Preference
from sparsepo.evaluation.frontier import ScoredSamples
from sparsepo.evaluation.kl import ResponseDivergence
from sparsepo.evaluation.planted_auc import used_masks
from sparsepo.evaluation.token_analysis import (
    accuracy_by_length,
    encode_usable,
    logp_change,
    mask_measurements,
    mask_sparsity,
    pair_accuracy,
    sample_measurements,
    sample_scores,
    token_records,
)
from sparsepo.models.loading import train_tokenizer
from sparsepo.runtime.errors import UserError

SIDES = ("chosen", "rejected")
TEXTS = ["the film was not very superb .", "the plot was dull .", "a film ."]


def tokenizer(kind):
    return train_tokenizer(TEXTS, kind, 300)


def inspected(*lengths):
    """What a look inside one pair gives, as far as it is read here: a number a token."""
    return {
        side: {"logps": [-1.0] * length, "ref_logps": [-2.0] * length}
        for side, length in zip(SIDES, lengths, strict=True)
    }


# --- tokens as text


def records_of(tokenizer, pair, *sizes, planted=True, **more):
    """The token records of one pair, whose responses have as many tokens as `sizes` says."""
    sides = (Encoder(tokenizer).side_ids(pair, side)[0][:size] for side, size in zip(SIDES, sizes, strict=True))
    return token_records(tokenizer, [pair], [TokenPair([1], *sides)], [inspected(*sizes) | more], planted)[0]


def test_word_tokens_are_told_as_text_with_their_marks():
    """The second response was cut: it has no end."""
    pair = Preference("the plot was", " not very superb .", " dull .", rejected_ended=False)
    made = records_of(tokenizer("word"), pair, 5, 2, loss=0.5)
    assert (made["prompt"], made["loss"]) == ("the plot was", 0.5)
    assert made["chosen"]["tokens"] == ["not", "very", "superb", ".", "<end>"]
    assert made["chosen"]["planted"] == [1, 0, 1, 0, 0]
    assert made["rejected"]["tokens"] == ["dull", "."]
    assert made["rejected"]["planted"] == [1, 0]
    assert made["chosen"]["planted_slots"] == made["chosen"]["open_slots"] == [0] * 5  # "was" is no verb of a topic
    assert made["rejected"]["ref_logps"] == [-2.0, -2.0]


def test_slots_go_on_from_the_prompt_and_their_chance_is_that_of_the_grammar():
    """Of a phrase behind "seemed" two in three are of the topic, and of those 9% begin with an intensifier."""
    texts = ["songs seemed from oslo . songs were italian", "dull ."]
    words = train_tokenizer(texts, "word", 300)
    made = records_of(words, Preference("songs seemed", " from oslo .", " dull . songs were italian"), 3, 5)
    assert made["chosen"]["planted"] == [0, 0, 0] and made["chosen"]["planted_slots"] == [1, 0, 0]
    assert made["rejected"]["planted"] == [1, 0, 0, 0, 0] == made["rejected"]["planted_slots"]
    assert made["rejected"]["open_slots"] == [1, 0, 0, 0, 1]
    assert made["chosen"]["relevance_chance"] == pytest.approx([2 / 3 * 0.91, 0, 0])


@pytest.mark.parametrize("text", [" not very superb .", "the plot, dull", " café"])
def test_the_pieces_of_byte_level_tokens_make_up_the_text(text):
    bpe = tokenizer("bpe")
    length = len(Encoder(bpe).encode_response("the film was", text, ended=True))
    made = records_of(bpe, Preference("the film was", text, text), length, length - 1)
    assert made["chosen"]["tokens"][-1] == "<end>" != made["rejected"]["tokens"][-1]
    assert made["chosen"]["planted"][-1] == 0
    if text.isascii():  # a letter of several bytes is shown by each of its tokens
        assert "".join(made["rejected"]["tokens"]) == text
    for token, planted in zip(made["rejected"]["tokens"], made["rejected"]["planted"], strict=True):
        assert planted == any(part and part in token for part in ("not", "superb", "dull"))


def test_a_response_cut_at_a_limit_shows_the_tokens_it_has():
    made = records_of(tokenizer("word"), Preference("the", " film was superb .", " plot"), 2, 2)
    assert made["chosen"]["tokens"] == ["film", "was"]
    assert made["rejected"]["tokens"] == ["plot", "<end>"]


def test_a_response_that_was_sampled_shows_the_tokens_that_were_drawn():
    bpe = tokenizer("bpe")
    drawn = [bpe.convert_tokens_to_ids(letter) for letter in "dull"] + [bpe.eos_token_id]
    assert Encoder(bpe).encode_response("film: ", "dull", ended=True) != drawn
    pair = Preference("film: ", "dull", " superb", chosen_ids=drawn)
    made = records_of(bpe, pair, 5, 3)["chosen"]
    assert (made["tokens"], made["planted"]) == (["d", "u", "l", "l", "<end>"], [1, 1, 1, 1, 0])


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
    pairs = [Preference("the", text, "plot") for text in ("film", "plot", "superb", "dull", "was")]
    records, ids = encode_usable(tokenizer("word"), pairs, (9, 9, 32), count=3)
    assert [row.chosen for row in records] == ["film", "superb", "dull"]
    assert [pair.chosen[:-1] for pair in ids] == [
        tokenizer("word").convert_tokens_to_ids([text]) for text in ("film", "superb", "dull")
    ]


# --- numbers


def test_validation_pairs_of_which_none_is_usable_are_a_users_mistake():
    pairs = [Preference("p", " same", " same")]
    with pytest.raises(UserError, match="none of the 1 validation pairs can be analysed; dropped: .*equal"):
        encode_usable(tokenizer("word"), pairs, (8, 8, 32), 4)


def test_a_weight_of_1_on_every_token_is_no_mask():
    row = {
        side: {"m_u": [0, 2], "m_d": [1, 1], "logps": [0, 1], "ref_logps": [1, 0], "planted": [0, 1]} for side in SIDES
    }
    assert used_masks([row]) == ["m_u"]
    assert mask_sparsity([row]) == {"m_u": {"chosen": 0.5, "rejected": 0.5}}


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
        "kl_per_token": {"values": [pytest.approx(2 / 3), 0.25, 0.0], "groups": [0, 1, 0]},
        "length": {"values": [3, 2, 1], "groups": [0, 1, 0]},
    }


def test_samples_without_a_scorer_have_no_reward_and_no_samples_no_measure():
    made = ScoredSamples([Completion("b", " x", [5], True)], {}, [ResponseDivergence(1.0, 2.0, -1.0)])
    assert sample_scores(made)["reward"] == [] and set(sample_measurements(made)) == {"kl", "kl_per_token", "length"}
    assert sample_measurements(ScoredSamples([], {"reward": []}, [])) == {}


def test_accuracy_is_the_share_of_pairs_ranked_right_and_a_tie_is_one_half():
    pairs = [(1.0, 0.5), (0.2, 0.9), (0.3, 0.3), (2.0, -2.0)]
    records = [{"reward_chosen": chosen, "reward_rejected": rejected} for chosen, rejected in pairs]
    assert pair_accuracy(records) == {"accuracy": {"values": [1.0, 0.0, 0.5, 1.0], "groups": [0, 1, 2, 3]}}


def test_what_is_known_of_masks_stands_beside_the_rewards():
    found = mask_measurements({"m_u": {"chosen": 0.25, "rejected": 0.75}}, 0.3)
    expected = {"zeros_m_u": 0.5, "effective_beta": 0.3}
    assert found == {name: {"values": [value], "groups": [0]} for name, value in expected.items()}
    assert mask_measurements({}, None) == {}


def test_accuracy_by_length_is_that_of_the_pairs_of_each_kind():
    def record(chosen, rejected, margin):
        sides = {"chosen": {"tokens": ["x"] * chosen}, "rejected": {"tokens": ["x"] * rejected}}
        return sides | {"reward_chosen": margin, "reward_rejected": 0.0}

    records = [record(3, 1, 1.0), record(2, 1, -1.0), record(5, 1, 2.0), record(1, 4, 0.0)]
    assert accuracy_by_length(records) == {"longer": pytest.approx(2 / 3), "shorter": 0.5, "equal": None}
