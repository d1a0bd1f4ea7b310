"""Scorers: how good each response is, by VADER, a classifier fitted here or elsewhere, or a scalar reward model."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparsepo.config.scorers import ScorerConfig
from sparsepo.runtime.errors import UserError


def load_classifier(name: str, role: str, pickled_weights: bool = False) -> tuple[Any, Any]:
    """Tokenizer and model of a hub id or folder; `role` is what an error calls it.

    Code of the model is never run, and pickled weights are refused unless allowed. Raises UserError if they cannot be
    loaded, or for weights without a classification head, which transformers would initialise at random.
    """
    from pickle import UnpicklingError

    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from sparsepo.models.trust import trust_error, trust_kwargs

    settings = trust_kwargs(pickled_weights=pickled_weights) | {"output_loading_info": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model, loading = AutoModelForSequenceClassification.from_pretrained(name, **settings)
    except (OSError, ValueError, UnpicklingError) as error:
        reason = trust_error(name, error, trusted=True) or str(error).split("\n")[0]
        unless = "" if pickled_weights else "; pickled weights are refused unless the config says pickled_weights: true"
        raise UserError(f"{role} '{name}' cannot be loaded: {reason}{unless}") from None
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"]))
        raise UserError(f"{role} '{name}' is no trained classifier: it lacks {missing}")
    if tokenizer.pad_token is None:  # as on a GPT or Llama; the mask hides the pads
        tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer, model


Scorer = Callable[[list[str], list[str]], list[float]]
"""(prompts, texts) -> one finite number of each prompt + text; higher is better."""


def build_scorer(section: ScorerConfig, fitted_scorer: Path | None = None) -> Scorer:
    """The scorer that a section of the config describes; of kind `tfidf`, what `tfidf.fit` wrote into `fitted_scorer`.

    Raises UserError for a model that cannot be loaded, or a label that it does not have.
    """
    arguments = section.model_dump(exclude={"kind"})
    if section.kind == "tfidf":
        arguments["folder"] = fitted_scorer
    return with_finite_scores(section.kind, SCORERS[section.kind](**arguments))


def with_finite_scores(kind: str, scorer: Scorer) -> Scorer:
    """The scorer, with a UserError for a result of the wrong length or a number that is not finite.

    One NaN would go unnoticed through the choice of pairs and every mean after it.
    """

    def score(prompts: list[str], texts: list[str]) -> list[float]:
        scores = [float(value) for value in scorer(prompts, texts)]
        if len(scores) != len(texts):
            raise UserError(f"scorer '{kind}' returned {len(scores)} scores for {len(texts)} texts")
        for index, value in enumerate(scores):
            if not math.isfinite(value):
                raise UserError(
                    f"scorer '{kind}' returned {value} for text {index}, which begins "
                    f"{(prompts[index] + texts[index])[:60]!r}; a finite number is expected"
                )
        return scores

    return score


def _vader() -> Scorer:
    """VADER's compound score, from [-1, 1] to [0, 1]."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    score = SentimentIntensityAnalyzer().polarity_scores
    return lambda prompts, texts: [(score(text)["compound"] + 1) / 2 for text in _join(prompts, texts)]


def _tfidf(*, folder: Path) -> Scorer:
    """The probability of class 1."""
    from sparsepo.evaluation import tfidf

    return tfidf.load_scorer(folder)


def _classifier(*, model: str, label: str, batch_size: int, pickled_weights: bool = False) -> Scorer:
    """The probability of `label`."""
    pipe, labels = _pipeline(model, pickled_weights)
    if label not in labels:
        allowed = ", ".join(map(str, labels))
        raise UserError(f"scorer model '{model}' has no label '{label}'; its labels are {allowed}")
    return _pipeline_scorer(pipe, label, batch_size=batch_size)


def _reward_model(*, model: str, batch_size: int, pickled_weights: bool = False) -> Scorer:
    """The one output of the model, as it is."""
    pipe, labels = _pipeline(model, pickled_weights)
    if len(labels) != 1:
        raise UserError(f"scorer model '{model}' has {len(labels)} outputs; a reward model has one")
    return _pipeline_scorer(pipe, labels[0], batch_size=batch_size, function_to_apply="none")


SCORERS: dict[str, Callable[..., Scorer]] = {
    "vader": _vader,
    "tfidf": _tfidf,
    "classifier": _classifier,
    "reward_model": _reward_model,
}


def _join(prompts: list[str], texts: list[str]) -> list[str]:
    return [prompt + text for prompt, text in zip(prompts, texts, strict=True)]


def _pipeline_scorer(pipe: Any, label: str, **options: Any) -> Scorer:
    def score(prompts: list[str], texts: list[str]) -> list[float]:
        if not texts:
            return []  # the pipeline does not take an empty list
        outputs = pipe(_join(prompts, texts), truncation=True, top_k=None, **options)
        return [{row["label"]: row["score"] for row in rows}[label] for rows in outputs]

    return score


def _pipeline(name: str, pickled_weights: bool) -> tuple[Any, list[str]]:
    """A text-classification pipeline that can truncate and pad, and its labels."""
    from transformers import pipeline

    tokenizer, model = load_classifier(name, "scorer model", pickled_weights)
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and tokenizer.model_max_length > positions:
        # the tokenizer states no limit; positions of RoBERTa start at 2
        tokenizer.model_max_length = positions - 2
    pipe = pipeline("text-classification", model=model, tokenizer=tokenizer)
    return pipe, list(model.config.id2label.values())
