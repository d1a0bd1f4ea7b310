"""The planted task: what VADER sees is exactly what is planted, and context mostly tells where."""

import math
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from vaderSentiment.vaderSentiment import BOOSTER_DICT, NEGATE, SentimentIntensityAnalyzer

from sparsepo.data import planted
from sparsepo.data.planted import (
    INTENSIFIERS,
    NEGATIVE,
    NEGATORS,
    NOUNS,
    POSITIVE,
    polar_spans,
    prompts,
    reviews,
)
from sparsepo.runtime.errors import UserError

VADER = SentimentIntensityAnalyzer()


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return reviews(4000, seed=0)


def marked(text: str) -> list[tuple[str, bool]]:
    """The words of `text`, each with whether it is planted."""
    spans = set(polar_spans(text))
    words, start = [], 0
    for word in text.split(" "):
        words.append((word, (start, start + len(word)) in spans))
        start += len(word) + 1
    assert sum(planted for _, planted in words) == len(spans)  # no span inside or across words
    return words


def planted_words(text: str) -> list[str]:
    return [text[start:end] for start, end in polar_spans(text)]


def test_the_vocabulary_is_as_large_as_promised_and_no_larger(corpus):
    assert len(POSITIVE) >= 60 and len(NEGATIVE) >= 60 and len(set(NOUNS)) >= 40
    assert not POSITIVE & NEGATIVE
    vocabulary = {word for review in corpus for word in review.split(" ")}
    assert len(vocabulary) < 500
    assert vocabulary >= POSITIVE | NEGATIVE | NEGATORS | set(NOUNS)


@pytest.mark.parametrize(("words", "sign"), [(POSITIVE, 1), (NEGATIVE, -1)])
def test_polar_words_have_their_sign_and_some_weight_in_vaders_lexicon(words, sign):
    wrong = {word: VADER.lexicon.get(word) for word in words}
    wrong = {word: valence for word, valence in wrong.items() if sign * (valence or 0) < 1.2}
    assert not wrong
    assert not words & set(BOOSTER_DICT), "VADER counts a booster as such, not as a polar word"


def test_no_other_word_means_anything_to_vader(corpus):
    vocabulary = {word for review in corpus for word in review.split(" ")}
    others = vocabulary - POSITIVE - NEGATIVE
    assert not others & set(VADER.lexicon)
    assert others & set(NEGATE) == NEGATORS
    assert others & set(BOOSTER_DICT) == INTENSIFIERS


@pytest.mark.parametrize("negator", sorted(NEGATORS))
@pytest.mark.parametrize("between", ["", "very "])
def test_vader_lets_every_negator_turn_the_sign(negator, between):
    for word, sign in (("good", 1), ("boring", -1)):
        text = f"the plot was {negator} {between}{word} ."
        assert sign * VADER.polarity_scores(text)["compound"] < 0


def test_text_is_lower_case_words_between_single_spaces(corpus):
    for review in corpus[:300]:
        assert review == " ".join(review.split())
        assert all(word.isalpha() and word.islower() or word in ".," for word in review.split())
        assert review.endswith(" .")


def test_a_review_has_two_to_four_sentences_and_18_to_34_words(corpus):
    assert {review.split(" ").count(".") for review in corpus} == {2, 3, 4}
    assert all(18 <= len(review.split(" ")) <= 34 for review in corpus)


def test_ten_to_twenty_percent_of_the_words_are_planted_and_every_review_has_some(corpus):
    shares = [[planted for _, planted in marked(review)] for review in corpus]
    assert all(any(share) for share in shares)
    assert 0.10 <= sum(map(sum, shares)) / sum(map(len, shares)) <= 0.20


def test_articles_agree_with_the_word_that_follows(corpus):
    for review in corpus:
        words = review.split(" ")
        for word, after in zip(words, words[1:], strict=False):
            if word in ("a", "an"):
                assert (word == "an") == (after[0] in "aeiou"), f"{word} {after}"


def test_half_of_the_reviews_are_positive_and_sentences_within_a_review_disagree(corpus):
    positive = mixed = 0
    for review in corpus[:1000]:
        scores = [VADER.polarity_scores(part)["compound"] for part in review.split(" .")]
        positive += VADER.polarity_scores(review)["compound"] > 0
        mixed += min(scores) < 0 < max(scores)
    assert 400 < positive < 600
    assert 200 < mixed < 700


def test_a_word_never_turns_the_polarity_of_another_sentence(corpus):
    """VADER's compound is s / sqrt(s^2 + 15): the raw sums of the sentences must add up."""
    for review in corpus[:500]:
        compounds = [VADER.polarity_scores(part + " .")["compound"] for part in review.split(" .")]
        total = sum(c * math.sqrt(15 / (1 - c * c)) for c in compounds)
        expected = total / math.sqrt(total * total + 15)
        assert VADER.polarity_scores(review)["compound"] == pytest.approx(expected, abs=2e-3)


def test_removing_the_planted_words_silences_vader(corpus):
    for text in corpus[:500]:
        rest = " ".join(word for word, planted in marked(text) if not planted)
        assert VADER.polarity_scores(rest)["compound"] == 0


def test_the_two_words_before_tell_nearly_always_whether_a_word_is_planted(corpus):
    """An oracle of counts over the last two words, smoothed by the last one, as a mask could be."""
    pairs: defaultdict = defaultdict(Counter)
    singles: defaultdict = defaultdict(Counter)
    seen = [contexts(review) for review in corpus]
    for before, last, planted_here in (row for review in seen[:3000] for row in review):
        pairs[before, last][planted_here] += 1
        singles[last][planted_here] += 1

    def chance(before: str, last: str) -> float:
        single, pair = singles[last], pairs[before, last]
        prior = single[True] / max(single.total(), 1)
        return (pair[True] + prior) / (pair.total() + 1)

    held_out = [row for review in seen[3000:] for row in review]
    scores = [chance(before, last) for before, last, _ in held_out]
    labels = [planted_here for *_, planted_here in held_out]
    assert 0.97 <= roc_auc_score(labels, scores) < 1


def contexts(review: str) -> list[tuple[str, str, bool]]:
    words = [("", False), ("", False), *marked(review)]
    return [
        (before, last, planted_here)
        for (before, _), (last, _), (_, planted_here) in zip(words, words[1:], words[2:], strict=False)
    ]


def test_a_few_sentences_begin_like_polar_ones_and_are_not(corpus):
    after_was: Counter = Counter()
    for review in corpus:
        words = review.split(" ")
        for noun, verb, after in zip(words, words[1:], words[2:], strict=False):
            if noun in NOUNS and verb == "was":
                after_was[after == "made"] += 1
    assert 0.05 < after_was[True] / after_was.total() < 0.15


def test_one_seed_gives_one_list_and_another_seed_another():
    assert reviews(20, seed=3) == reviews(20, seed=3) == reviews(40, seed=3)[:20]
    assert prompts(20, seed=3) == prompts(20, seed=3)
    assert reviews(20, seed=3) != reviews(20, seed=4)
    assert prompts(20, seed=3) != prompts(20, seed=4)


def test_three_thousand_prompts_are_distinct_openings_that_a_review_could_have(corpus):
    openings = prompts(3000, seed=0)
    assert len(set(openings)) == 3000
    assert {len(opening.split(" ")) for opening in openings} == {5, 6, 7, 8}
    vocabulary = {word for review in corpus for word in review.split(" ")}
    assert {word for opening in openings for word in opening.split(" ")} <= vocabulary
    beginnings = {tuple(review.split(" ")[:3]) for review in reviews(20_000, seed=1)}
    assert sum(tuple(o.split(" ")[:3]) in beginnings for o in openings) > 2900


def test_prompts_say_nothing_polar_and_some_end_right_before_a_polar_word():
    openings = prompts(1000, seed=5)
    for opening in openings:
        assert not set(opening.split(" ")) & (POSITIVE | NEGATIVE | NEGATORS)
    last = Counter(opening.split(" ")[-1] for opening in openings)
    assert sum(last[word] for word in ("was", "be", "felt", "seemed")) > 50
    assert last["."] > 50


def test_asking_for_more_prompts_than_the_grammar_has_is_a_users_mistake(monkeypatch):
    monkeypatch.setattr(planted, "POLAR_FRAMES", ("the DAY was PLAIN on that long DAY .",) * 5)
    monkeypatch.setattr(planted, "FILLER_FRAMES", ("it runs for NUMBER hours with no break .",) * 5)
    possible = 5 * 4  # five numbers; openings of 5, 6, 7 or 8 words
    assert len(prompts(possible, seed=0)) == possible
    with pytest.raises(UserError, match=f"{possible + 1} prompts.* only about {possible} "):
        prompts(possible + 1, seed=0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the plot was dull .", ["dull"]),
        ("the plot was not very good .", ["not", "good"]),
        ("the plot was never good .", ["never", "good"]),
        ("not quite", []),
        ("it was not made in rome .", []),
        ("not . good", ["good"]),
        ("not very , good", ["good"]),
        ("not very very good", ["good"]),
        ("good", ["good"]),
        ("very good", ["good"]),
        ("seldom dull and good", ["seldom", "dull", "good"]),
        ("the plot was not dull.", ["not", "dull"]),
        ("goodness dullest", []),
        ("", []),
    ],
)
def test_planted_are_polar_words_and_the_negators_that_turn_them(text, words):
    assert planted_words(text) == words


@given(st.lists(st.sampled_from(["not", "very", "good", "dull", "film", ".", ","]), max_size=12))
def test_spans_of_any_word_order_are_ordered_disjoint_and_cover_every_polar_word(words):
    text = " ".join(words)
    spans = polar_spans(text)
    ends = [position for span in spans for position in span]
    assert ends == sorted(set(ends))
    found = [text[start:end] for start, end in spans]
    assert set(found) <= {"not", "good", "dull"}
    assert [word for word in found if word != "not"] == [w for w in words if w in ("good", "dull")]
    padded = [*words, "film", "film"]
    turns = (padded[i + 1 + (padded[i + 1] == "very")] for i, w in enumerate(words) if w == "not")
    assert found.count("not") == sum(word in ("good", "dull") for word in turns)
