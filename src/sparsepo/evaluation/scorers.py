"""Scorers: how good each response is, by VADER, a classifier fitted here or elsewhere, or a scalar reward model."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from sparsepo.config.scorers import ScorerConfig
from sparsepo.data.chat import ChatRenderer, TextOrChat, columns_of, plain_text, plain_texts, with_response
from sparsepo.runtime.errors import UserError, one_line
from sparsepo.runtime.user_code import ALL_COLUMNS, load_function, parameters_of


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
    return tokenizer, model


Scorer = Callable[[Sequence[TextOrChat], Sequence[str]], list[float]]
"""(prompts, responses) -> one finite number of each response to its prompt, a text or a chat; higher is better.

Some have a method `take_notes`, see `cut_notes`.
"""


def build_scorer(section: ScorerConfig, fitted_scorer: Path | None = None) -> Scorer:
    """The scorer that a section of the config describes; of kind `tfidf`, what `tfidf.fit` wrote into `fitted_scorer`.

    Raises UserError for a model that cannot be loaded, or a label that it does not have.
    """
    arguments = section.model_dump(exclude={"kind"})
    if section.kind == "tfidf":
        arguments["folder"] = fitted_scorer
    return FiniteScorer(getattr(section, "function", section.kind), SCORERS[section.kind](**arguments))


@dataclass(frozen=True)
class FiniteScorer:
    """A scorer, with a UserError for a result of the wrong length or a number that is not finite.

    One NaN would go unnoticed through the choice of pairs and every mean after it.
    """

    name: str
    scorer: Scorer

    def __call__(self, prompts: Sequence[TextOrChat], responses: Sequence[str]) -> list[float]:
        scores = [float(value) for value in self.scorer(prompts, responses)]
        if len(scores) != len(responses):
            raise UserError(f"scorer '{self.name}' returned {len(scores)} scores for {len(responses)} texts")
        for index, value in enumerate(scores):
            if not math.isfinite(value):
                beginning = plain_text(with_response(prompts[index], responses[index]))[:60]
                raise UserError(
                    f"scorer '{self.name}' returned {value} for text {index}, which begins "
                    f"{beginning!r}; a finite number is expected"
                )
        return scores

    def take_notes(self) -> list[str]:
        return notes_of(self.scorer)


def cut_notes(*scorers: Any) -> list[str]:
    """What scorers or judges have to say of texts that they cut since the last call: a note for each, also printed."""
    notes = [note for scorer in scorers for note in notes_of(scorer)]
    for note in notes:
        print(note, flush=True)
    return notes


def notes_of(scorer: Any) -> list[str]:
    """The notes that a scorer or judge takes, if it does."""
    return scorer.take_notes() if hasattr(scorer, "take_notes") else []


# --- kinds of scorers


def _vader() -> Scorer:
    """VADER's compound score, from [-1, 1] to [0, 1]."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    score = SentimentIntensityAnalyzer().polarity_scores
    return lambda prompts, responses: [(score(text)["compound"] + 1) / 2 for text in plain_texts(prompts, responses)]


def _tfidf(*, folder: Path) -> Scorer:
    """The probability of class 1."""
    from sparsepo.evaluation import tfidf

    return tfidf.load_scorer(folder)


def _classifier(*, model: str, label: str, batch_size: int, pickled_weights: bool = False) -> Scorer:
    """The probability of `label`."""
    tokenizer, network = load_classifier(model, "scorer model", pickled_weights)
    labels = network.config.id2label
    if label not in labels.values():
        allowed = ", ".join(map(str, labels.values()))
        raise UserError(f"scorer model '{model}' has no label '{label}'; its labels are {allowed}")
    index = next(index for index, name in labels.items() if name == label)
    to_probabilities = probabilities_of(network.config)
    return SequenceScorer(model, tokenizer, network, lambda logits: to_probabilities(logits)[index], batch_size)


def _reward_model(*, model: str, batch_size: int, pickled_weights: bool = False) -> Scorer:
    """The one output of the model, as it is; of a chat as the model's own chat template renders it, if it has one."""
    tokenizer, network = load_classifier(model, "scorer model", pickled_weights)
    if network.config.num_labels != 1:
        raise UserError(f"scorer model '{model}' has {network.config.num_labels} outputs; a reward model has one")
    has_template = bool(getattr(tokenizer, "chat_template", None))
    renderer = ChatRenderer(tokenizer, add_generation_prompt=False) if has_template else None
    return SequenceScorer(model, tokenizer, network, lambda logits: logits[0], batch_size, renderer)


def _python(*, function: str, higher_is_better: bool = True) -> Scorer:
    """A function of the user, called with the columns of the data that it asks for."""
    score, asked = load_function(function), parameters_of(function, ("prompts", "responses"))

    def scores(prompts: Sequence[TextOrChat], responses: Sequence[str]) -> list[float]:
        rows = [columns_of(prompt) for prompt in prompts]
        names = set().union(*rows) if ALL_COLUMNS in asked.columns else set(asked.columns).intersection(*rows)
        columns = {name: [row.get(name) for row in rows] for name in sorted(names | set(asked.needed))}
        plain = [str(prompt) if isinstance(prompt, str) else list(prompt) for prompt in prompts]
        return as_numbers(score(plain, list(responses), **columns), f"scorer '{function}'")

    return scores


def as_numbers(values: Any, name: str) -> list[float]:
    """What a function of the user returned, as numbers: a list, an array or a tensor. Raises UserError for other."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        given = "None" if values is None else f"one {type(values).__name__}"
        raise UserError(f"{name} returned {given}; a list with a number for each response is expected")
    numbers = [value.tolist() if hasattr(value, "tolist") else value for value in values]
    for index, value in enumerate(numbers):
        if not isinstance(value, Real):
            raise UserError(f"{name} returned {one_line(repr(value), 100)} for text {index}; a number is expected")
    return list(map(float, numbers))


SCORERS: dict[str, Callable[..., Scorer]] = {
    "vader": _vader,
    "tfidf": _tfidf,
    "classifier": _classifier,
    "reward_model": _reward_model,
    "python": _python,
}


# --- sequence classifiers


def probabilities_of(config: Any) -> Callable[[Any], Any]:
    """(labels,) logits -> probabilities, as the text-classification pipeline of transformers chooses them."""
    import numpy as np

    def softmax(logits: Any) -> Any:
        odds = np.exp(logits - logits.max())
        return odds / odds.sum()

    if config.problem_type == "regression":
        return lambda logits: logits
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return lambda logits: 1 / (1 + np.exp(-logits))
    return softmax


class SequenceScorer:
    """A number of each response by a sequence classifier of transformers, which reads it behind its prompt.

    to_score: (labels,) logits of a text -> its score. renderer: renders chats with the chat template of the classifier;
    without one, a chat is its `plain_text`. A text longer than the model's limit loses its beginning, apart from the
    special tokens in front. Scores do not depend on the batch but for rounding.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Any,
        model: Any,
        to_score: Callable[[Any], float],
        batch_size: int,
        renderer: ChatRenderer | None = None,
    ):
        import torch

        self.place, self.tokenizer, self.to_score = f"scorer model '{name}'", tokenizer, to_score
        self.batch_size, self.renderer = batch_size, renderer
        self.max_tokens = max_text_tokens(tokenizer, model.config)
        self.model = model.eval().to(torch.accelerator.current_accelerator() or "cpu")
        self.model.config.get_text_config().use_cache = False
        self._counts: Counter[str] = Counter()

    def __call__(self, prompts: Sequence[TextOrChat], responses: Sequence[str]) -> list[float]:
        rows = [self._encode(*texts) for texts in zip(prompts, responses, strict=True)]
        batches = [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]
        return [float(self.to_score(logits)) for batch in batches for logits in self._logits(batch)]

    def take_notes(self) -> list[str]:
        """A note about the texts cut since the last call, if there are any."""
        counts, self._counts = self._counts, Counter()
        if not counts["cut"]:
            return []
        note = f"{counts['cut']:,} of {counts['texts']:,} texts had more than {self.max_tokens:,} tokens"
        lost = f"; in {counts['response cut']:,} the response alone was too long" if counts["response cut"] else ""
        return [f"{self.place}: {note} and were scored without their beginning{lost}"]

    def _encode(self, prompt: TextOrChat, response: str) -> dict[str, list[int]]:
        """What the tokenizer makes of a text, cut to the limit."""
        whole, is_chat = with_response(prompt, response), not isinstance(prompt, str)
        rendered = is_chat and self.renderer is not None
        text = self.renderer.render_prompt(whole, self.place) if rendered else plain_text(whole)
        row = dict(self.tokenizer(text, add_special_tokens=not rendered, return_attention_mask=True))
        self._counts["texts"] += 1
        excess, special = len(row["input_ids"]) - self.max_tokens, set(self.tokenizer.all_special_ids)
        if excess <= 0:
            return row
        start = next(place for place, token in enumerate([*row["input_ids"], None]) if token not in special)
        end = text[max(0, text.rfind(response.strip() if is_chat else response)) :]
        room = self.max_tokens - (start if rendered else self.tokenizer.num_special_tokens_to_add())
        fits = len(self.tokenizer(end, add_special_tokens=False)["input_ids"]) <= room
        self._counts.update(["cut"] if fits else ["cut", "response cut"])
        return {name: values[:start] + values[start + excess :] for name, values in row.items()}

    def _logits(self, rows: Sequence[dict[str, list[int]]]) -> list[Any]:
        """(labels,) of each row; a model that reads the last token finds it by the token of the pads."""
        import torch

        config, width = self.model.config.get_text_config(), max(len(row["input_ids"]) for row in rows)
        stated, used = config.pad_token_id, {token for row in rows for token in row["input_ids"]}
        pad = stated
        if stated is None or not 0 <= stated < config.vocab_size:  # not the end token: a chat may end with it
            pad = next((token for token in range(config.vocab_size) if token not in used), None)
        if pad is None and len(rows) > 1:
            return [logits for row in rows for logits in self._logits([row])]
        fill = {"input_ids": pad}
        inputs = {
            name: torch.tensor([row[name] + [fill.get(name, 0)] * (width - len(row[name])) for row in rows])
            for name in rows[0]
        }
        config.pad_token_id = pad
        with torch.inference_mode():
            logits = self.model(**{name: values.to(self.model.device) for name, values in inputs.items()}).logits
        config.pad_token_id = stated
        return list(logits.float().cpu().numpy())


def max_text_tokens(tokenizer: Any, config: Any) -> int:
    """The longest input in tokens. A tokenizer may state no limit; positions of RoBERTa start at 2."""
    positions, stated = getattr(config, "max_position_embeddings", None), tokenizer.model_max_length
    return stated if positions is None or stated <= positions else positions - 2
