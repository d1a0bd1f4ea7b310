"""The planted task: what VADER sees is exactly what is planted, and only the text before tells where."""

import math
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from vaderSentiment.vaderSentiment import BOOSTER_DICT, NEGATE, SentimentIntensityAnalyzer

from sparsepo.data import planted
from sparsepo.data.planted import (
    INTENSIFIERS,
    IRRELEVANT,
    LISTS,
    NEGATIVE,
    NEGATORS,
    POSITIVE,
    RELEVANT,
    TOPICS,
    open_spans,
    planted_spans,
    prompts,
    relevance_chances,
    reviews,
)
from sparsepo.runtime.errors import UserError

VADER = SentimentIntensityAnalyzer()


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return reviews(4000, seed=0)


def words_at(text: str, spans) -> list[str]:
    return [text[start:end] for start, end in spans]


def marked(text: str) -> list[tuple[str, bool]]:
    """The words of `text`, each with whether it is relevant."""
    spans = set(planted_spans(text, "words"))
    words, start = [], 0
    for word in text.split(" "):
        words.append((word, (start, start + len(word)) in spans))
        start += len(word) + 1
    assert sum(relevant for _, relevant in words) == len(spans)  # no span inside or across words
    return words


# --- the grammar


def test_both_topics_are_filled_from_lists_of_equal_size_and_have_no_word_in_common():
    sizes = [(len(t.first), len(t.second), len(t.negators), sorted(t.verbs.values())) for t in TOPICS]
    assert sizes[0] == sizes[1] == (16, 16, 4, sizes[0][3])
    groups = [POSITIVE, NEGATIVE, NEGATORS, IRRELEVANT.first, IRRELEVANT.second, IRRELEVANT.negators, INTENSIFIERS]
    groups += [*LISTS.values(), *(tuple(topic.verbs) for topic in TOPICS)]
    words = [word for group in groups for word in group]
    assert len(words) == len(set(words)) and {len(words) for words in LISTS.values()} == {64}


def test_the_vocabulary_is_small_and_all_of_it_is_used(corpus):
    vocabulary = {word for review in corpus for word in review.split(" ")}
    assert len(vocabulary) < 400
    assert vocabulary >= RELEVANT.words | IRRELEVANT.words | set(NEGATORS) | {w for ws in LISTS.values() for w in ws}


@pytest.mark.parametrize(("words", "sign"), [(POSITIVE, 1), (NEGATIVE, -1)])
def test_polar_words_have_their_sign_and_some_weight_in_vaders_lexicon(words, sign):
    wrong = {word: VADER.lexicon.get(word) for word in words}
    wrong = {word: valence for word, valence in wrong.items() if sign * (valence or 0) < 1.2}
    assert not wrong
    assert not set(words) & set(BOOSTER_DICT), "VADER counts a booster as such, not as a polar word"


def test_no_other_word_means_anything_to_vader(corpus):
    others = {word for review in corpus for word in review.split(" ")} - RELEVANT.words
    assert not others & set(VADER.lexicon)
    assert others & set(NEGATE) == set(NEGATORS)
    assert others & set(BOOSTER_DICT) == set(INTENSIFIERS)


@pytest.mark.parametrize("negator", sorted(NEGATORS))
@pytest.mark.parametrize("between", ["", "very "])
def test_vader_lets_every_negator_turn_the_sign(negator, between):
    for word, sign in (("superb", 1), ("boring", -1)):
        text = f"oslo songs felt {negator} {between}{word} ."
        assert sign * VADER.polarity_scores(text)["compound"] < 0


def test_text_is_lower_case_words_between_single_spaces(corpus):
    for review in corpus[:300]:
        assert review == " ".join(review.split())
        assert all(word.isalpha() and word.islower() or word == "." for word in review.split())
        assert review.endswith(" .")


def test_a_review_has_three_to_five_sentences_and_18_to_36_words(corpus):
    assert {review.split(" ").count(".") for review in corpus} == {3, 4, 5}
    assert all(18 <= len(review.split(" ")) <= 36 for review in corpus)


def test_half_of_the_scored_reviews_are_positive_and_sentences_within_a_review_disagree(corpus):
    compounds = [VADER.polarity_scores(review)["compound"] for review in corpus[:1000]]
    scored = [compound for compound in compounds if compound]
    assert len(scored) > 700 and 0.45 < np.mean(np.array(scored) > 0) < 0.55
    mixed = 0
    for review in corpus[:1000]:
        scores = [VADER.polarity_scores(part)["compound"] for part in review.split(" .")]
        mixed += min(scores) < 0 < max(scores)
    assert mixed > 100


def test_a_word_never_turns_the_polarity_of_another_sentence(corpus):
    """VADER's compound is s / sqrt(s^2 + 15): the raw sums of the sentences must add up."""
    for review in corpus[:500]:
        compounds = [VADER.polarity_scores(part + " .")["compound"] for part in review.split(" .")]
        total = sum(c * math.sqrt(15 / (1 - c * c)) for c in compounds)
        expected = total / math.sqrt(total * total + 15)
        assert VADER.polarity_scores(review)["compound"] == pytest.approx(expected, abs=2e-3)


def test_removing_the_relevant_words_silences_vader_and_removing_the_others_does_not_change_it(corpus):
    for text in corpus[:500]:
        words = marked(text)
        assert VADER.polarity_scores(" ".join(w for w, relevant in words if not relevant))["compound"] == 0
        swapped = {word: "wooden" for word in (*IRRELEVANT.words, *IRRELEVANT.negators)}
        other = " ".join(swapped.get(word, word) for word, _ in words)
        assert VADER.polarity_scores(other)["compound"] == VADER.polarity_scores(text)["compound"]


# --- relevant and irrelevant positions look alike


def swapped_topics(text: str) -> str:
    """The text with the words of one topic in place of those of the other."""
    table = {}
    for one, other in (TOPICS, TOPICS[::-1]):
        for name in ("first", "second", "negators"):
            table |= dict(zip(getattr(one, name), getattr(other, name), strict=True))
        table |= dict(zip(one.verbs, other.verbs, strict=True))
    return " ".join(table.get(word, word) for word in text.split(" "))


def test_what_is_relevant_and_what_is_not_change_places_when_the_topics_do(corpus):
    for text in corpus[:300]:
        other = swapped_topics(text)
        index = {name: words_at(t, planted_spans(t, "slots")) for name, t in (("own", text), ("other", other))}
        assert len(open_spans(text)) == len(open_spans(other)) == len(index["own"]) + len(index["other"])


def estimated(corpus, number=3000):
    """Entropy and surprisal, by counts of words after each pair of words, of the positions of held-out reviews."""
    table: defaultdict = defaultdict(Counter)
    sort = {word: name for name, words in LISTS.items() for word in words}
    sort |= {word: "word" for topic in TOPICS for word in topic.words}

    def context(words, at):
        return tuple(sort.get(word, word) for word in words[max(0, at - 2) : at])

    for review in corpus[:number]:
        words = review.split(" ")
        for at, word in enumerate(words):
            table[context(words, at)][word] += 1
    rows = []
    for review in corpus[number:]:
        words = review.split(" ")
        slots, opened = (set(spans) for spans in (planted_spans(review, "slots"), open_spans(review)))
        for at, match in enumerate(re.finditer(r"\S+", review)):
            counts = table[context(words, at)]
            shares = np.array([*counts.values()]) / counts.total()
            entropy = -(shares * np.log(shares)).sum()
            surprisal = -math.log((counts[words[at]] + 0.5) / (counts.total() + 0.5))
            rows.append((entropy, surprisal, match.span() in slots, match.span() in opened))
    return np.array(rows).T


def test_entropy_and_surprisal_do_not_tell_relevant_slots_from_others(corpus):
    entropy, surprisal, slots, opened = estimated(corpus)
    among = opened == 1
    for values in (entropy, surprisal):
        assert roc_auc_score(slots[among], values[among]) == pytest.approx(0.5, abs=0.05)


def test_of_the_other_words_of_responses_about_as_many_come_from_long_lists_as_are_nearly_certain(corpus):
    """Behind the first five words, as prompts have them: then the entropy of all tokens tells as little."""
    long = {word for words in LISTS.values() for word in words}
    drawn = certain = 0
    for review in corpus[:1000]:
        slots = set(open_spans(review))
        others = [m.group() for m in list(re.finditer(r"\S+", review))[5:] if m.span() not in slots]
        drawn += sum(word in long for word in others)
        certain += sum(word not in long and word not in (RELEVANT.verbs | IRRELEVANT.verbs) for word in others)
    assert 0.45 < drawn / (drawn + certain) < 0.65


# --- the truths


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("oslo songs felt dull .", ["dull"]),
        ("oslo songs felt not very superb .", ["not", "superb"]),
        ("oslo songs felt never superb .", ["never", "superb"]),
        ("not quite", []),
        ("songs were not italian .", []),
        ("not . superb", ["superb"]),
        ("not very . superb", ["superb"]),
        ("not very very superb", ["superb"]),
        ("very superb", ["superb"]),
        ("seldom dull and superb", ["seldom", "dull", "superb"]),
        ("songs felt not dull.", ["not", "dull"]),
        ("dullness superbly", []),
        ("", []),
    ],
)
def test_relevant_words_are_polar_words_and_the_negators_that_turn_them(text, words):
    assert words_at(text, planted_spans(text, "words")) == words


@pytest.mark.parametrize(
    ("prompt", "text", "slots", "opened"),
    [
        ("", "oslo songs felt dull .", ["dull"], ["dull"]),
        ("", "oslo songs were italian .", [], ["italian"]),
        ("", "songs felt not very dull .", ["not", "very", "dull"], ["not", "very", "dull"]),
        ("", "songs looked very dull and not lazy .", ["very", "dull", "not", "lazy"], ["very", "dull", "not", "lazy"]),
        ("", "songs seemed from oslo .", ["from"], ["from"]),
        ("", "songs were from oslo .", [], ["from"]),
        ("oslo songs felt", " dull .", ["dull"], ["dull"]),
        ("oslo songs felt very", " dull .", ["dull"], ["dull"]),
        ("oslo songs became", " rural .", [], ["rural"]),
        ("songs felt dull", " and superb .", ["superb"], ["superb"]),
        ("", "songs felt oslo .", ["oslo"], ["oslo"]),  # whatever stands there
        ("", "dull songs . superb", [], []),  # no verb before them
        ("", "songs became dull .", [], ["dull"]),
        ("", "songs felt italian and dull .", ["italian"], ["italian"]),  # no phrase goes on so
    ],
)
def test_slots_are_where_a_relevant_word_may_stand_whatever_stands_there(prompt, text, slots, opened):
    assert words_at(text, planted_spans(text, "slots", prompt)) == slots
    assert words_at(text, open_spans(text, prompt)) == opened


@given(
    st.lists(
        st.sampled_from(["not", "very", "superb", "dull", "felt", "were", "looked", "songs", "and", "rural", "."]),
        max_size=14,
    ),
    st.integers(0, 14),
)
def test_the_truths_of_any_word_order_are_ordered_and_those_of_a_response_do_not_depend_on_where_it_begins(words, cut):
    text, head = " ".join(words), " ".join(words[:cut])
    for spans in (planted_spans(text, "words"), planted_spans(text, "slots"), open_spans(text)):
        ends = [position for span in spans for position in span]
        assert ends == sorted(set(ends))
    assert [word for word in words_at(text, planted_spans(text, "words")) if word != "not"] == [
        word for word in words if word in ("superb", "dull")
    ]
    tail = text[len(head) :]
    shifted = [(a + len(head), b + len(head)) for a, b in planted_spans(tail, "slots", prompt=head)]
    assert shifted == [span for span in planted_spans(text, "slots") if span[0] >= len(head)]
    assert set(planted_spans(text, "slots")) <= set(open_spans(text))


def test_another_truth_is_refused():
    with pytest.raises(ValueError, match="truth must be 'words' or 'slots', not 'word'"):
        planted_spans("songs felt dull .", "word")


def test_in_reviews_every_relevant_word_stands_in_a_slot(corpus):
    for text in corpus[:500]:
        assert set(planted_spans(text, "words")) <= set(planted_spans(text, "slots"))


def test_the_chance_of_a_relevant_word_is_how_often_there_is_one(corpus):
    """Counted in the texts, for each probability that is stated."""
    seen: defaultdict = defaultdict(list)
    for text in corpus:
        relevant = set(planted_spans(text, "words"))
        for span, chance in relevance_chances(text):
            seen[chance].append(span in relevant)
    assert len(seen) == 5 and np.mean(seen[0.0]) == 0 and np.mean(seen[1.0]) == 1
    for chance, found in seen.items():
        assert np.mean(found) == pytest.approx(chance, abs=4 * math.sqrt(0.25 / len(found)))


def test_the_text_before_nearly_settles_words_and_settles_slots(corpus):
    rows = [
        (span in set(planted_spans(text, "words")), span in set(planted_spans(text, "slots")), chance)
        for text in corpus[:1000]
        for span, chance in relevance_chances(text)
    ]
    words, slots, chances = np.array(rows, dtype=float).T
    assert roc_auc_score(slots, chances) == 1.0
    assert 0.99 < roc_auc_score(words, chances) < 1.0


# --- seeds and prompts


def test_one_seed_gives_one_list_and_another_seed_another():
    assert reviews(20, seed=3) == reviews(20, seed=3) == reviews(40, seed=3)[:20]
    assert prompts(20, seed=3) == prompts(20, seed=3)
    assert reviews(20, seed=3) != reviews(20, seed=4)
    assert prompts(20, seed=3) != prompts(20, seed=4)


def test_three_thousand_prompts_are_distinct_openings_that_a_review_could_have(corpus):
    openings = prompts(3000, seed=0)
    assert len(set(openings)) == 3000
    assert {len(opening.split(" ")) for opening in openings} == {3, 4, 5, 6, 7}
    vocabulary = {word for review in corpus for word in review.split(" ")}
    assert {word for opening in openings for word in opening.split(" ")} <= vocabulary


def test_prompts_say_nothing_polar_and_some_end_right_before_a_polar_word():
    openings = prompts(1000, seed=5)
    for opening in openings:
        assert not set(opening.split(" ")) & (RELEVANT.words | set(NEGATORS))
    last = Counter(opening.split(" ")[-1] for opening in openings)
    assert sum(last[word] for word in RELEVANT.verbs) > 50


def test_asking_for_more_prompts_than_the_grammar_has_is_a_users_mistake(monkeypatch):
    monkeypatch.setattr(planted, "FRAMES", ("it runs on VERB in oslo",))
    monkeypatch.setattr(planted, "OTHER_FRAMES", ("it runs on in oslo with no break",))
    monkeypatch.setattr(planted, "ABOUT_A_TOPIC", 0.0)
    assert len(prompts(5, seed=0)) == 5  # openings of 3 to 7 words
    with pytest.raises(UserError, match="6 prompts.* only about 5 "):
        prompts(6, seed=0)
