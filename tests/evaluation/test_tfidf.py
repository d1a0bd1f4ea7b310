"""The fitted scorer against scikit-learn's own pipeline and against weights worked out by hand."""

import json
import math
import random

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline

from sparsepo.config.scorers import TfidfScorer
from sparsepo.data.records import Labelled
from sparsepo.evaluation.scorers import build_scorer
from sparsepo.evaluation.tfidf import describe_fit, fit, load_scorer, split_folds
from sparsepo.runtime.errors import UserError

GOOD, BAD = ["great", "fine", "lovely"], ["dull", "poor", "awful"]
PLAIN = ["the", "film", "plot", "actor", "was", "and", "music", "long"]


def documents(count=100, seed=0, length=20):
    """Words of both classes, but more of the own one: a hard enough task."""
    draw, made = random.Random(seed), []
    for _ in range(count):
        label = draw.randrange(2)
        words = draw.choices(PLAIN, k=length) + draw.choices((BAD, GOOD)[label], k=3) + draw.choices(GOOD + BAD, k=3)
        made.append(Labelled(" ".join(draw.sample(words, len(words))), label))
    return made


def reference(kept):
    """The whole of it by scikit-learn, without our files in between."""
    terms = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    model = make_pipeline(terms, LogisticRegression(C=10.0, max_iter=1000))
    return model.fit([each.text for each in kept], [each.label for each in kept])


def test_the_saved_scorer_gives_the_probabilities_of_scikit_learn(tmp_path):
    labelled = documents()
    fit(labelled, 0, tmp_path)
    model = reference(labelled[20:])
    texts = ["the film was great", "dull dull dull plot", "nothing known", "", "great music and poor actor"]
    expected = model.predict_proba([f"the {text}" for text in texts])[:, 1]
    scorer = build_scorer(TfidfScorer(kind="tfidf"), tmp_path)
    assert scorer(["the "] * len(texts), texts) == pytest.approx(expected, abs=1e-9)
    assert scorer([], []) == []


def test_a_score_is_the_one_worked_out_by_hand(tmp_path):
    """Two terms of weights 2 and -1; in the text the first stands twice, and the third term is unknown."""
    (tmp_path / "words.json").write_text('["good", "film"]')
    np.savez(tmp_path / "weights.npz", idf=[1.5, 1.0], weight=[2.0, -1.0], bias=[0.25])
    good, film = (1 + math.log(2)) * 1.5, 1.0
    length = math.hypot(good, film)
    expected = 1 / (1 + math.exp(-(0.25 + 2 * good / length - film / length)))
    assert load_scorer(tmp_path)(["good film "], ["so good"]) == pytest.approx([expected], abs=1e-12)


def test_the_report_is_of_documents_that_were_not_fitted(tmp_path):
    labelled = documents()
    for seed, (start, end) in {0: (0, 20), 3: (60, 80), 8: (60, 80)}.items():
        report = fit(labelled, seed, tmp_path)
        held_out, model = labelled[start:end], reference([*labelled[:start], *labelled[end:]])
        labels, texts = [each.label for each in held_out], [each.text for each in held_out]
        assert (report["fitted"], report["held_out"]) == (80, 20)
        assert report["accuracy"] == pytest.approx(model.score(texts, labels))
        assert report["auc"] == pytest.approx(roc_auc_score(labels, model.predict_proba(texts)[:, 1]))
        assert report == json.loads((tmp_path / "report.json").read_text())


def test_the_accuracy_on_the_first_words_looks_at_no_others(tmp_path):
    """Behind 40 words that tell the class of a document stand many that tell the other one."""
    draw = random.Random(0)

    def words(label, count):
        return " ".join(draw.choices((BAD, GOOD)[label], k=count))

    misleading = [Labelled(f"{words(n % 2, 40)} {words(1 - n % 2, 400)}", n % 2) for n in range(20)]
    report = fit([*misleading, *(Labelled(words(n % 2, 40), n % 2) for n in range(80))], 0, tmp_path)
    assert report["accuracy_40_words"] == 1.0 and report["accuracy"] < 0.5


def test_pairs_are_reported_by_the_share_ranked_right_and_never_cut(tmp_path):
    """The last of nine pairs of the held-out fifth is turned round, so one of nine is ranked wrong."""
    good, bad = Labelled("great lovely film", 1), Labelled("dull awful film", 0)
    labelled = [good, bad] * 45
    labelled[16:18] = [Labelled(bad.text, 1), Labelled(good.text, 0)]
    report = fit(labelled, 0, tmp_path, pairs=True)
    assert report["pairs_ranked_right"] == pytest.approx(8 / 9) and report["held_out"] == 18
    assert describe_fit(report).endswith("fitted to 72 other documents; it ranks 0.889 of 9 pairs held out right.")
    for size in (26, 34, 38):
        for seed in range(5):
            kept, held_out = split_folds([good, bad] * (size // 2), seed)
            assert [each.label for each in held_out] == [1, 0] * (len(held_out) // 2)


def test_the_sentence_says_how_good_the_scorer_is():
    report = {"fitted": 80, "held_out": 20, "accuracy": 0.9, "auc": 0.95, "accuracy_40_words": 0.75}
    said = "on 20 held out its accuracy is 0.900, and 0.750 on their first 40 words."
    assert describe_fit(report) == f"The scorer tfidf was fitted to 80 other documents; {said}"


def test_a_contiguous_fifth_is_held_out_and_the_rest_is_kept():
    labelled = documents(43)
    parts = [split_folds(labelled, seed) for seed in range(5)]
    assert [each for _, held_out in parts for each in held_out] == labelled
    for kept, held_out in parts:
        assert len(kept) + len(held_out) == 43 and 8 <= len(held_out) <= 11


def test_documents_of_one_class_or_too_few_are_refused(tmp_path):
    with pytest.raises(UserError, match="data.labelled gives 9 documents; a scorer is fitted to at least 10"):
        fit(documents(9), 0, tmp_path)
    one = [Labelled(f"text {n}", 1) for n in range(20)]
    with pytest.raises(UserError, match="all of 16 labelled documents are of class 1; both are needed"):
        fit(one, 0, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_fitted_scorer_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path}: no fitted scorer can be read there"):
        build_scorer(TfidfScorer(kind="tfidf"), tmp_path)


def test_no_pickle_is_read(tmp_path):
    (tmp_path / "words.json").write_text("[]")
    np.savez(tmp_path / "weights.npz", idf=np.array([print], dtype=object))
    with pytest.raises(UserError, match="no fitted scorer can be read there"):
        load_scorer(tmp_path)


def test_the_same_documents_give_the_same_files(tmp_path):
    for name in ("a", "b"):
        fit(documents(), 0, tmp_path / name)
    for file in ("words.json", "report.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    first, second = (np.load(tmp_path / name / "weights.npz") for name in ("a", "b"))
    assert all(np.array_equal(first[key], second[key]) for key in first)
