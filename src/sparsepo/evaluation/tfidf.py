"""A sentiment classifier that is fitted in the pipeline: TF-IDF of words and word pairs, logistic regression."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsepo.data.chat import TextOrChat, plain_texts
from sparsepo.data.records import Labelled, write_bytes, write_json, write_text
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.files import check_folder

FOLDS = 5  # one of them is held out
FIRST_WORDS = 40  # a scored response is much shorter than the documents
MIN_DOCUMENT_FREQUENCY = 2  # of a term
MIN_DOCUMENTS = 10


def fit(labelled: Sequence[Labelled], seed: int, folder: Path, pairs: bool = False) -> dict[str, Any]:
    """Fit p(class 1 | text) to four fifths of the documents, write it into `folder` and report it on the other fifth.

    Terms are words and pairs of words, weighted by (1 + log count) log((1 + n) / (1 + document frequency)) + 1 and
    scaled to length one. The fifth is contiguous, as documents of one prompt stand together; `seed` chooses it.
    report.json: numbers of documents, and on those held out accuracy and area under the ROC curve, and the accuracy on
    their first 40 words; or where documents are `pairs`, chosen before rejected, the share of pairs in the right order.
    Raises UserError for too few documents, or for a part of them that is all of one class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score

    fitted, held_out = split_folds(labelled, seed)
    vectorizer = _vectorizer(min_df=MIN_DOCUMENT_FREQUENCY)
    features = vectorizer.fit_transform([document.text for document in fitted])
    model = LogisticRegression(C=10.0, max_iter=1000).fit(features, [document.label for document in fitted])
    words = vectorizer.get_feature_names_out().tolist()
    arrays, buffer = {"idf": vectorizer.idf_, "weight": model.coef_[0], "bias": model.intercept_}, io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(folder / "weights.npz", buffer.getvalue())  # numbers and words, no pickle: reading them runs no code
    write_text(folder / "words.json", json.dumps(words, ensure_ascii=False))
    texts, labels = [document.text for document in held_out], np.array([document.label for document in held_out])
    scorer, no_prompts = load_scorer(folder), [""] * len(held_out)
    scores = scorer(no_prompts, texts)
    report = {
        "fitted": len(fitted),
        "held_out": len(held_out),
        "terms": len(words),
        "accuracy": float(np.mean((np.array(scores) > 0.5) == labels)),
        "auc": float(roc_auc_score(labels, scores)),
    }
    if pairs:
        report["pairs_ranked_right"] = float(np.mean([a > b for a, b in zip(scores[::2], scores[1::2], strict=True)]))
    else:
        openings = [" ".join(text.split()[:FIRST_WORDS]) for text in texts]
        report[f"accuracy_{FIRST_WORDS}_words"] = float(
            np.mean((np.array(scorer(no_prompts, openings)) > 0.5) == labels)
        )
    write_json(folder / "report.json", report)
    return report


def describe_fit(report: dict[str, Any]) -> str:
    """A note about the scorer, for the reader of a table."""
    head = f"The scorer tfidf was fitted to {report['fitted']} other documents;"
    if "pairs_ranked_right" in report:
        return f"{head} it ranks {report['pairs_ranked_right']:.3f} of {report['held_out'] // 2} pairs held out right."
    opening = f"{report[f'accuracy_{FIRST_WORDS}_words']:.3f} on their first {FIRST_WORDS} words"
    return f"{head} on {report['held_out']} held out its accuracy is {report['accuracy']:.3f}, and {opening}."


def split_folds(labelled: Sequence[Labelled], seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """(four fifths, the fifth that `seed` holds out)."""
    if len(labelled) < MIN_DOCUMENTS:
        raise UserError(
            f"data.labelled gives {len(labelled)} documents; a scorer is fitted to at least {MIN_DOCUMENTS}"
        )
    fold, size = seed % FOLDS, len(labelled)
    edges = [*(edge * size // FOLDS // 2 * 2 for edge in range(FOLDS)), size]  # even, so that no pair is parted
    start, end = edges[fold], edges[fold + 1]
    fitted, held_out = [*labelled[:start], *labelled[end:]], list(labelled[start:end])
    for part in (fitted, held_out):
        if len({document.label for document in part}) < 2:
            raise UserError(f"all of {len(part)} labelled documents are of class {part[0].label}; both are needed")
    return fitted, held_out


def load_scorer(folder: str | Path) -> Callable[[Sequence[TextOrChat], Sequence[str]], list[float]]:
    """The scorer that `fit` has written: the probability of class 1 for prompt + response.

    Raises UserError if it cannot be read.
    """
    folder = Path(folder)
    check_folder(folder)
    try:
        words = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        saved = dict(np.load(folder / "weights.npz", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no fitted scorer can be read there ({error})") from None
    vectorizer = _vectorizer(vocabulary={word: index for index, word in enumerate(words)})
    vectorizer.idf_ = saved["idf"]

    def score(prompts: Sequence[TextOrChat], responses: Sequence[str]) -> list[float]:
        if not responses:
            return []
        features = vectorizer.transform(plain_texts(prompts, responses))
        return (1 / (1 + np.exp(-(features @ saved["weight"] + saved["bias"])))).tolist()

    return score


def _vectorizer(**settings: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, **settings)
