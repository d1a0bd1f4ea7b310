"""Round robins whose table can be written down."""

from sparsepo.evaluation.judges import round_robin

BEATS = {("rock", "scissors"), ("scissors", "paper"), ("paper", "rock")}


def by_length(prompts, a, b):
    return [(len(one) > len(two)) + 0.5 * (len(one) == len(two)) for one, two in zip(a, b, strict=True)]


def cyclic(prompts, a, b):
    return [1.0 if pair in BEATS else 0.5 if pair[0] == pair[1] else 0.0 for pair in zip(a, b, strict=True)]


def test_each_plays_each_once_and_wins_are_shares_of_games():
    """1 beats none, 3 beats two, 2 beats one and ties with its like: (1 + 1/2) / 3."""
    played = round_robin(by_length, ["p"] * 4, ["x", "xxx", "xx", "yy"])
    assert played.wins == [0.0, 1.0, 0.5, 0.5] and (played.compared, played.unjudged) == (6, 0)


def test_only_responses_to_the_same_prompt_meet_wherever_they_stand():
    seen = []

    def judge(prompts, a, b):
        seen.extend(zip(prompts, a, b, strict=True))
        return by_length(prompts, a, b)

    played = round_robin(judge, ["p", "q", "p", "q"], ["x", "yyy", "xx", "yy"])
    assert sorted(seen) == [("p", "x", "xx"), ("q", "yyy", "yy")]
    assert played.wins == [0.0, 1.0, 1.0, 0.0]


def test_a_cycle_has_no_winner():
    assert round_robin(cyclic, ["p"] * 3, ["rock", "paper", "scissors"]).wins == [0.5, 0.5, 0.5]


def test_uncertain_verdicts_are_means_of_probabilities():
    table = {("a", "b"): 0.9, ("a", "c"): 0.4, ("b", "c"): 0.25}
    played = round_robin(lambda _, a, b: [table[pair] for pair in zip(a, b, strict=True)], ["p"] * 3, ["a", "b", "c"])
    assert [round(won, 12) for won in played.wins] == [0.65, 0.175, 0.675]


def test_a_comparison_without_verdict_is_a_tie_and_counted():
    played = round_robin(lambda _, a, b: [None] * len(a), ["p", "p"], ["a", "b"])
    assert played.wins == [0.5, 0.5] and (played.unjudged, played.compared) == (1, 1)


def test_an_only_response_asks_no_judge():
    def judge(prompts, a, b):
        raise AssertionError("asked")

    assert round_robin(judge, ["p", "q"], ["x", "y"]).wins == [0.5, 0.5]
