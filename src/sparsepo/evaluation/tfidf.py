"""A sentiment classifier that is fitted in the pipeline: TF-IDF of words and word pairs, logistic regression."""

import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsepo.data.records import Labelled, write_json, write_text
from sparsepo.runtime.errors import UserError, naming

FOLDS = 5  # one of them is held out
OPENING = 40  # words; a scored response is much shorter than the documents
RARE = 2  # documents; what is in fewer is no term
LEAST = 10  # documents


def fit(labelled: Sequence[Labelled], seed: int, folder: Path, pairs: bool = False) -> dict[str, Any]:
    """Fit p(class 1 | text) to four fifths of the documents, write it into `folder` and report it on the last fifth.

    Terms are words and pairs of words, weighted (1 + log count) log((1 + n) / (1 + document frequency)) + 1 and scaled
    to length one. The fifth is contiguous, as documents of one prompt stand together; `seed` says which one.
    report.json: numbers of documents, and on those held out accuracy and area under the ROC curve, and the accuracy on
    their first 40 words; or where documents are `pairs`, chosen before rejected, the share of pairs ranked right.
    Raises UserError for too few documents, or for a part of them that is all of one class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    kept, held_out = folds(labelled, seed)
    vectorizer = _vectorizer(min_df=RARE)
    features = vectorizer.fit_transform([each.text for each in kept])
    model = LogisticRegression(C=10.0, max_iter=1000).fit(features, [each.label for each in kept])
    words = vectorizer.get_feature_names_out().tolist()
    _save(folder, words, {"idf": vectorizer.idf_, "weight": model.coef_[0], "bias": model.intercept_})
    score, labels = load(folder), [each.label for each in held_out]
    whole = score([""] * len(labels), [each.text for each in held_out])
    report = {
        "fitted": len(kept),
        "held_out": len(held_out),
        "terms": len(words),
        "accuracy": accuracy(whole, labels),
        "auc": float(roc_auc_score(labels, whole)),
    }
    if pairs:
        report["pairs_ranked_right"] = float(np.mean([a > b for a, b in zip(whole[::2], whole[1::2], strict=True)]))
    else:
        opening = score([""] * len(labels), [" ".join(each.text.split()[:OPENING]) for each in held_out])
        report[f"accuracy_{OPENING}_words"] = accuracy(opening, labels)
    write_json(folder / "report.json", report)
    return report


def sentence(report: dict[str, Any]) -> str:
    """What a reader of a table has to know of the scorer."""
    head = f"The scorer tfidf was fitted to {report['fitted']} other documents;"
    if "pairs_ranked_right" in report:
        return f"{head} it ranks {report['pairs_ranked_right']:.3f} of {report['held_out'] // 2} pairs held out right."
    opening = f"{report[f'accuracy_{OPENING}_words']:.3f} on their first {OPENING} words"
    return f"{head} on {report['held_out']} held out its accuracy is {report['accuracy']:.3f}, and {opening}."


def folds(labelled: Sequence[Labelled], seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """(four fifths, the fifth that `seed` holds out)."""
    if len(labelled) < LEAST:
        raise UserError(f"data.labelled gives {len(labelled)} documents; a scorer is fitted to at least {LEAST}")
    at, size = seed % FOLDS, len(labelled)
    edges = [*(edge * size // FOLDS // 2 * 2 for edge in range(FOLDS)), size]  # even: a pair is never cut
    start, end = edges[at], edges[at + 1]
    kept, held_out = [*labelled[:start], *labelled[end:]], list(labelled[start:end])
    for part in (kept, held_out):
        if len({each.label for each in part}) < 2:
            raise UserError(f"all of {len(part)} labelled documents are of class {part[0].label}; both are needed")
    return kept, held_out


def accuracy(probabilities: Sequence[float], labels: Sequence[int]) -> float:
    """The share of documents whose class is the more probable one."""
    return float(np.mean([(p > 0.5) == label for p, label in zip(probabilities, labels, strict=True)]))


def load(folder: str | Path) -> Callable[[list[str], list[str]], list[float]]:
    """What `fit` has written, as a scorer: the probability of class 1 for prompt + text.

    Raises UserError if it is not there.
    """
    folder = Path(folder)
    try:
        words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        saved = dict(np.load(folder / "weights.npz", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no fitted scorer can be read there ({error})") from None
    vectorizer = _vectorizer(vocabulary={word: at for at, word in enumerate(words)})
    vectorizer.idf_ = saved["idf"]

    def score(prompts: list[str], texts: list[str]) -> list[float]:
        if not texts:
            return []
        features = vectorizer.transform([prompt + text for prompt, text in zip(prompts, texts, strict=True)])
        return (1 / (1 + np.exp(-(features @ saved["weight"] + saved["bias"])))).tolist()

    return score


def _vectorizer(**given: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, **given)


def _save(folder: Path, words: list[str], arrays: dict[str, np.ndarray]) -> None:
    """Numbers and words, no pickle: reading them runs nothing."""
    write_text(folder / "words.json", json.dumps(words, ensure_ascii=False))
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    temporary = folder / f".weights.npz.{os.getpid()}.tmp"
    try:
        with naming(folder / "weights.npz"):
            temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, folder / "weights.npz")
    finally:
        temporary.unlink(missing_ok=True)
