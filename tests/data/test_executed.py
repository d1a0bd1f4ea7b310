"""Passing against failing programs: pairs counted by hand and by brute force, every lost prompt with its reason."""

from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from sparsepo.data.pairing import passing_against_failing
from sparsepo.data.records import Completion, Preference


def attempts(passing, failing, prompt="p", ended=True):
    rows = [(text, True) for text in passing] + [(text, False) for text in failing]
    return [(Completion(prompt, text, [1], ended, id=f"mbpp/{prompt}"), passed) for text, passed in rows]


def texts(made, prompt="p"):
    return [(pair.chosen, pair.rejected) for pair in made.pairs if pair.prompt == prompt]


def dropped(made):
    return [(row["reason"], row["count"], row["first"]) for row in made.summary["dropped"]]


def test_a_prompt_has_a_pair_for_each_epoch_of_a_passing_and_a_failing_program():
    made = passing_against_failing({"p": attempts(["a", "b"], ["x"])}, epochs=2, seed=0)
    assert sorted(texts(made)) == [("a", "x"), ("b", "x")]
    assert [pair.epoch for pair in made.pairs] == [0, 1]
    assert made.pairs[0] == Preference("p", made.pairs[0].chosen, "x", epoch=0)


def test_no_pair_comes_again_before_all_were_used_and_then_in_the_same_order():
    made = texts(passing_against_failing({"p": attempts("abc", "xy")}, epochs=14, seed=3))
    assert sorted(made[:6]) == sorted(product("abc", "xy"))
    assert made[6:12] == made[:6] and made[12:] == made[:2]


def test_the_seed_changes_the_order_and_the_same_seed_gives_the_same_pairs():
    groups = {"p": attempts("abcd", "wxyz")}
    first = [passing_against_failing(groups, 16, seed).pairs for seed in range(5)]
    assert first == [passing_against_failing(groups, 16, seed).pairs for seed in range(5)]
    assert len({tuple(pairs) for pairs in first}) == 5


def test_pairs_of_a_prompt_do_not_depend_on_the_other_prompts():
    groups = {"p": attempts("abc", "xyz"), "q": attempts("abc", "xyz", "q")}
    both, alone = (passing_against_failing(each, 5, 1) for each in (groups, {"q": groups["q"]}))
    assert texts(both, "q") == texts(alone, "q") != texts(both, "p")


def test_prompts_without_two_passing_or_a_failing_program_are_counted_with_the_first():
    groups = {
        "1": attempts("a", "xyz", "1"),
        "2": attempts("ab", "", "2"),
        "3": attempts("", "x", "3"),
        "4": attempts("ab", "x", "4"),
        "5": attempts("", "", "5"),
    }
    made = passing_against_failing(groups, 1, 0)
    assert [pair.prompt for pair in made.pairs] == ["4"]
    assert dropped(made) == [
        ("fewer than two different programs pass", 3, "mbpp/1"),
        ("no program fails", 1, "mbpp/2"),
    ]


def test_programs_that_differ_by_space_around_them_are_one():
    made = passing_against_failing({"p": attempts([" a", "a\n"], ["x"])}, 1, 0)
    assert dropped(made) == [("fewer than two different programs pass", 1, "mbpp/p")]
    made = passing_against_failing({"p": attempts(["\na", "b"], ["x", " x", "x\n"])}, 4, 0)
    assert set(texts(made)) == {("\na", "x"), ("b", "x")}


def test_a_program_that_passed_once_is_no_failing_one_and_an_empty_one_is_none():
    made = passing_against_failing({"p": attempts(["a", "b"], ["a ", "", " \n"])}, 1, 0)
    assert dropped(made) == [("no program fails", 1, "mbpp/p")]


def test_whether_a_program_was_cut_goes_with_it():
    groups = {"p": attempts("ab", "", ended=True) + attempts("", "x", ended=False)}
    pairs = passing_against_failing(groups, 2, 0).pairs
    assert [(pair.chosen_ended, pair.rejected_ended) for pair in pairs] == [(True, False)] * 2


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=10), st.integers(0, 5))
def test_every_pair_is_a_passing_and_a_failing_program_or_the_prompt_is_dropped(drawn, epochs):
    rows = [(Completion("p", text, [], True), passed) for text, passed in drawn]
    made = passing_against_failing({"p": rows}, epochs, 0)
    passing = {text for text, passed in drawn if passed}
    failing = {text for text, passed in drawn} - passing
    usable = len(passing) > 1 and bool(failing)
    assert len(made.pairs) == usable * epochs and sum(made.dropped.values()) == (not usable)
    assert all(chosen in passing and rejected in failing for chosen, rejected in texts(made))
    assert len(set(texts(made))) == min(len(made.pairs), len(passing) * len(failing))
