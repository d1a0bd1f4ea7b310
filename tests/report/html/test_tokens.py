"""What the token viewer shows, on pairs of a few tokens."""

import pytest

from sparsepo.report.html.tokens import choose_pairs, token_values, top_tokens, values_by_pair
from sparsepo.runtime.errors import UserError

PLAIN = {"log_ratio", "reverse_kl", "forward_kl"}
MASKED = PLAIN | {"m_u", "m_d", "weighted_log_ratio", "weighted_kl"}


def _side(tokens, m_u=None, m_d=None, **rest):
    """A response of which the numbers do not matter, with masks where they are given."""
    count = len(tokens)
    made = {"tokens": tokens, "logps": [-1.0] * count, "ref_logps": [-2.0] * count}
    made |= {"reverse_kl": [0.5] * count, "forward_kl": [0.25] * count}
    masks = {"m_u": m_u, "m_d": m_d if m_d else [0.0] * count} if m_u else {}
    return made | masks | rest


def _row(chosen, rejected, prompt="a prompt", rewards=(0.5, -0.25)):
    return {"prompt": prompt, "loss": 0.5, "reward_chosen": rewards[0], "reward_rejected": rewards[1],
            "chosen": chosen, "rejected": rejected}  # fmt: skip


def _rows(count, length):
    """Pairs with so many tokens in both responses together."""
    half = length // 2
    return [_row(_side([" a"] * half), _side([" b"] * (length - half)), f"prompt {place}") for place in range(count)]


# --- the numbers of a token


def test_the_values_of_a_token_are_as_by_hand():
    side = {"logps": [-1.0, -2.0, -0.5], "ref_logps": [-1.5, -1.0, -0.5], "reverse_kl": [0.1, 0.2, 0.0],
            "forward_kl": [0.3, 0.4, 0.0], "m_u": [0.5, 2.0, 1.0], "m_d": [0.5, 0.0, 1.0]}  # fmt: skip
    assert token_values(side) == {
        "log_ratio": [0.5, -1.0, 0.0],
        "reverse_kl": [0.1, 0.2, 0.0],
        "forward_kl": [0.3, 0.4, 0.0],
        "m_u": [0.5, 2.0, 1.0],
        "m_d": [0.5, 0.0, 1.0],
        "weighted_log_ratio": [0.25, -2.0, 0.0],
        "weighted_kl": [0.05, 0.0, 0.0],
    }


def test_masks_weigh_only_where_a_run_has_them():
    assert set(token_values(_side(["a"]))) == PLAIN
    assert set(token_values(_side(["a"], m_u=[0.5]))) == MASKED


def test_numbers_that_came_with_a_pair_are_there_where_a_run_reads_some():
    assert token_values(_side(["a", "b"], values=[0.25, -1.0]))["values"] == [0.25, -1.0]
    assert set(token_values(_side(["a", "b"], values=[0.25, -1.0]))) == PLAIN | {"values"}


def test_numbers_have_four_significant_digits():
    side = _side(["a", "b", "c"], reverse_kl=[0.123456, 1234.56, 1.23456e-7])
    assert token_values(side)["reverse_kl"] == [0.1235, 1235.0, 1.235e-07]


# --- the pairs


def test_a_pair_is_its_texts_and_what_was_planted():
    row = _row(_side([" good", " film"], planted=[1, 0]), _side([" bad"], planted=[1]), "a film is")
    assert choose_pairs([row], 1) == [
        {
            "prompt": "a film is",
            "chosen": {"tokens": [" good", " film"], "planted": [1, 0]},
            "rejected": {"tokens": [" bad"], "planted": [1]},
        }
    ]
    assert choose_pairs(_rows(1, 2), 1)[0]["chosen"] == {"tokens": [" a"]}


@pytest.mark.parametrize(
    ("length", "runs", "count"),
    [
        (200, 10, 24),  # never more
        (200, 40, 7),  # 7 pairs of 200 tokens and 8 quantities in 40 runs are 448,000 numbers, 8 would be 512,000
        (200, 100, 3),
        (200, 10_000, 2),  # never fewer
        (20_000, 1, 3),
    ],
)
def test_the_more_runs_there_are_the_fewer_pairs_a_page_holds(length, runs, count):
    found = choose_pairs(_rows(30, length), runs)
    assert [pair["prompt"] for pair in found] == [f"prompt {place}" for place in range(count)]
    assert count * length * 8 * runs <= 500_000 or count == 2


def test_the_longest_pair_decides():
    assert len(choose_pairs([*_rows(29, 2), *_rows(1, 200)], 40)) == 7


def test_fewer_pairs_than_fit_are_all_shown():
    found = choose_pairs(_rows(1, 10), 1)
    assert len(found) == 1


# --- what a run says of them


def test_a_run_says_of_each_pair_its_rewards_and_the_values_of_both_sides():
    rows = _rows(3, 4)
    rows[1] |= {"reward_chosen": 2.0, "reward_rejected": 1.23456}
    rows[1]["rejected"]["reverse_kl"] = [7.0, 8.0]
    pairs = choose_pairs(rows, 1)[:2]
    first, second = values_by_pair(rows, pairs, 3, "dpo/beta~0.1/seed~0")
    assert (first["reward"], second["reward"]) == ([0.5, -0.25], [2.0, 1.235])
    assert (second["chosen"]["reverse_kl"], second["rejected"]["reverse_kl"]) == ([0.5, 0.5], [7.0, 8.0])
    assert set(first) == {"chosen", "rejected", "reward"} and set(first["chosen"]) == PLAIN


def _other_tokens(rows):
    rows[1]["rejected"]["tokens"] = [" a", " c"]


def _other_order(rows):
    rows[0]["chosen"]["tokens"] = [" x", " y"]
    rows.reverse()


def _fewer(rows):
    rows.pop()


def _more(rows):
    rows.append(rows[0])


@pytest.mark.parametrize("change", [_other_tokens, _other_order, _fewer, _more])
def test_a_run_that_looked_into_other_pairs_is_refused_by_name(change):
    rows = _rows(3, 4)
    pairs = choose_pairs(rows, 1)
    values_by_pair(rows, pairs, 3, "sft")
    change(rows)
    with pytest.raises(UserError, match=r"^tokens/dpo/beta~0\.1/seed~0\.jsonl is not about the pairs of the other"):
        values_by_pair(rows, pairs, 3, "dpo/beta~0.1/seed~0")


# --- the tokens of the largest weights


def test_the_top_tokens_are_as_by_hand():
    rows = [
        _row(_side([" good", " film", "good"], [1.0, 0.5, 0.5], [0.0, 0.9, 0.0]), _side([" film"], [0.25], [0.9])),
        _row(_side([" film", " dull"], [0.0, 9.0], [0.9, 0.0]), _side([" good ", " film"], [0.0, 0.25], [0.3, 0.9])),
    ]
    found = top_tokens(rows)
    assert found["m_u"] == {"both": [["good", 0.5, 3], ["film", 0.25, 4]], "chosen": [], "rejected": []}
    assert found["m_d"]["both"] == [["film", 0.9, 4], ["good", 0.1, 3]]


def test_a_part_counts_its_own_side_alone():
    chosen, rejected = _side(["a", "a", "a", "b"], [1.0, 2.0, 3.0, 5.0]), _side(["b", "b", "b", "a"], [1.0] * 4)
    found = top_tokens([_row(chosen, rejected)])["m_u"]
    assert found["chosen"] == [["a", 2.0, 3]]
    assert found["rejected"] == [["b", 1.0, 3]]
    assert found["both"] == [["b", 2.0, 4], ["a", 1.75, 4]]


def test_a_token_that_occurs_twice_is_not_listed():
    row = _row(_side(["a", "b", "b", "c", "c", "c"], [9.0, 9.0, 9.0, 1.0, 1.0, 1.0]), _side(["d"], [1.0]))
    assert top_tokens([row])["m_u"]["both"] == [["c", 1.0, 3]]


def test_white_space_around_a_token_is_left_out_and_white_space_alone_is_named():
    row = _row(_side([" a", "a\n", "a", "\n", "\n", "\n"], [3.0] * 3 + [1.0] * 3), _side(["b"], [0.0]))
    assert top_tokens([row])["m_u"]["chosen"] == [["a", 3.0, 3], [r"'\n'", 1.0, 3]]


def test_a_list_holds_fifteen_tokens_and_equal_ones_stand_by_name():
    letters = "tsrqponmlkjihgfedcba"
    row = _row(_side([letter for letter in letters for _ in range(3)], [0.123456] * 60), _side(["b"], [0.0]))
    assert top_tokens([row])["m_u"]["chosen"] == [[letter, 0.1235, 3] for letter in "abcdefghijklmno"]


def test_a_run_without_masks_has_no_top_tokens():
    assert top_tokens(_rows(3, 40)) == {}
