"""Entailment between texts: an NLI classifier, SummaC over sentences, and EDNA of the summaries of a document."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, permutations
from pathlib import Path
from typing import Any

import numpy as np

from sparsepo.data.chat import TextOrChat, plain_text
from sparsepo.evaluation.scorers import load_classifier
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.progress import progress

Consistency = Callable[[Sequence[str], Sequence[str]], list[float]]
"""(documents, summaries) -> the degree to which each document entails its summary, in [0, 1]."""

DEFAULT_MAX_TOKENS = 512  # of premise and hypothesis, for a model that states no limit
MIN_CHARACTERS = 10  # SummaC takes only longer sentences
MAX_SENTENCES = 100  # of a document, for SummaC

# The edges of SummaC's histograms: percentiles of the entailment that its authors found in summaries.
_LOW, _MIDDLE = [0.0, 0.01, 0.02, 0.03, 0.04, 0.07, 0.13, 0.37], [0.90, 0.91, 0.92, 0.93, 0.94]
EDGES = np.array([*_LOW, *_MIDDLE, 0.95, 0.955, 0.96, 0.965, 0.97, 0.975, 0.98, 0.985, 0.99, 0.995, 1.0])
CONV_SENTENCES = 10  # of a summary, for SummaC-Conv


# --- pairs of texts


class Entailment:
    """P(premise entails hypothesis) by an NLI sequence classifier.

    The model is a hub id or a folder; exactly one of its labels begins with "entail". Raises UserError when the model
    cannot be loaded, has no trained classification head, or has no such label.
    """

    def __init__(self, model: str, batch_size: int, pickled_weights: bool = False):
        import torch

        self.name, self.batch_size = model, batch_size
        self.tokenizer, self.model = load_classifier(model, "NLI model", pickled_weights)
        if self.tokenizer.pad_token is None:  # as on a GPT or Llama; the mask hides the pads
            self.tokenizer.pad_token = self.tokenizer.eos_token
            self.model.config.pad_token_id = self.tokenizer.pad_token_id
        labels = self.model.config.id2label
        matches = [index for index, label in labels.items() if label.lower().startswith("entail")]
        if len(matches) != 1 or len(labels) < 2:
            given = ", ".join(labels.values())
            raise UserError(
                f"NLI model '{model}' needs exactly one of its labels to begin with 'entail'; it has {given}"
            )
        (self.label,) = matches
        self.max_tokens = max_pair_tokens(self.tokenizer, self.model.config)
        self.device = torch.accelerator.current_accelerator() or "cpu"
        self.model.eval().to(self.device)
        self._num_pairs = self._num_cut = 0

    def __call__(self, prompts: Sequence[TextOrChat], responses: Sequence[str]) -> list[float]:
        """As a scorer: the probability that a prompt entails its response."""
        return self.scores([plain_text(prompt) for prompt in prompts], responses)

    def scores(self, premises: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        """One probability of each pair, in their order; 0 where one of the texts is blank.

        Of a pair longer than the model's limit the longer text, usually the premise, is cut at its end. Equal pairs are
        computed once, and batches hold pairs of similar length. Raises UserError for a probability that is not finite.
        """
        pairs = list(zip(premises, hypotheses, strict=True))
        distinct = {pair for pair in pairs if pair[0].strip() and pair[1].strip()}
        order = sorted(distinct, key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        probabilities: dict[tuple[str, str], float] = {}
        for batch in progress(batches, len(batches), "entailment"):
            probabilities |= zip(batch, self._probabilities(batch), strict=True)
        return [probabilities.get(pair, 0.0) for pair in pairs]

    def take_notes(self) -> list[str]:
        """A note about the pairs cut since the last call, if there are any."""
        pairs, cut, self._num_pairs, self._num_cut = self._num_pairs, self._num_cut, 0, 0
        note = f"NLI model '{self.name}': {cut:,} of {pairs:,} pairs of texts had more than {self.max_tokens:,} tokens"
        return [f"{note}; the end of the longer text was left out"] * bool(cut)

    def _probabilities(self, batch: list[tuple[str, str]]) -> list[float]:
        import torch

        premises, hypotheses = map(list, zip(*batch, strict=True))
        self._num_pairs += len(batch)
        self._num_cut += sum(len(ids) > self.max_tokens for ids in self.tokenizer(premises, hypotheses)["input_ids"])
        cut = {"truncation": "longest_first", "max_length": self.max_tokens}
        inputs = self.tokenizer(premises, hypotheses, padding=True, return_tensors="pt", **cut).to(self.device)
        with torch.inference_mode():
            probabilities = self.model(**inputs).logits.float().softmax(-1)[:, self.label].tolist()
        if not all(map(math.isfinite, probabilities)):
            raise UserError(f"NLI model '{self.name}' gave a probability that is not finite; are its weights complete?")
        return probabilities


def max_pair_tokens(tokenizer: Any, config: Any) -> int:
    """The longest input of a model in tokens. A tokenizer may state no limit; positions of RoBERTa start at 2."""
    positions = getattr(config, "max_position_embeddings", None) or DEFAULT_MAX_TOKENS + 2
    stated = tokenizer.model_max_length
    return stated if stated <= positions else positions - 2


# --- SummaC


@dataclass(frozen=True)
class Convolution:
    r"""SummaC-Conv (Laban et al. 2022), with given weights.

    For column j of an image, H_j are the counts of its entries between `EDGES`, and
    $m = mean_j (w \cdot H_j + b)$ over the first `CONV_SENTENCES` columns;
    the score is the second entry of $softmax(V (m, m, m) + c)$.
    """

    weight: np.ndarray  # w: (23,)
    bias: float
    final: np.ndarray  # V: (2, 3)
    final_bias: np.ndarray  # c: (2,)

    def __call__(self, image: np.ndarray) -> float:
        """(sentences of a document, sentences of a summary) -> [0, 1]."""
        counts = np.stack([np.histogram(column, bins=EDGES)[0] for column in image.T[:CONV_SENTENCES]])
        first, second = self.final.sum(1) * (counts @ self.weight + self.bias).mean() + self.final_bias
        return float(1 / (1 + np.exp(first - second)))


def zero_shot(image: np.ndarray) -> float:
    r"""SummaC-ZS with entailment alone: $mean_j max_i image_{ij}$, i a sentence of the document, j of the summary."""
    return float(image.max(0).mean())


def read_convolution(path: str | Path) -> Convolution:
    """The weights that the authors of SummaC published, in their format. Raises UserError for any other file."""
    import pickle

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = {name: tensor.double().numpy() for name, tensor in state.items()}
        return Convolution(
            state["mlp.weight"].reshape(len(EDGES) - 1),
            float(state["mlp.bias"].reshape(())),
            state["layer_final.weight"].reshape(2, 3),
            state["layer_final.bias"].reshape(2),
        )
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; weights of SummaC-Conv are expected") from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError, pickle.UnpicklingError):
        shapes = f"mlp (1 x {len(EDGES) - 1}) and layer_final (2 x 3)"
        raise UserError(f"{path}: not weights of SummaC-Conv; a torch file of {shapes} is expected") from None


def build_summac(*, model: str, batch_size: int, conv: str | None = None, pickled_weights: bool = False) -> Consistency:
    """SummaC-Conv with the weights of the file `conv`, or SummaC-ZS without, on the NLI classifier `model`."""
    pool = read_convolution(conv) if conv else zero_shot
    entailment = Entailment(model, batch_size, pickled_weights)
    return lambda documents, summaries: summac(documents, summaries, entailment.scores, pool)


def summac(
    documents: Sequence[str], summaries: Sequence[str], entails: Consistency, pool: Callable[[np.ndarray], float]
) -> list[float]:
    """One score of each document and its summary: `pool` of the image of their sentences.

    The image holds P(sentence i of the document entails sentence j of the summary). A blank document or summary has no
    image and scores 0.
    """
    split = {text: split_sentences(text) for text in {*documents, *summaries}}
    sides = [(split[a][:MAX_SENTENCES], split[b]) for a, b in zip(documents, summaries, strict=True)]
    pairs = [(premise, hypothesis) for rows, columns in sides for premise in rows for hypothesis in columns]
    flat = iter(entails([premise for premise, _ in pairs], [hypothesis for _, hypothesis in pairs]))
    images = [np.array([[next(flat) for _ in columns] for _ in rows]) for rows, columns in sides]
    return [pool(image) if image.size else 0.0 for image in images]


def split_sentences(text: str) -> list[str]:
    """English sentences longer than ten characters, as in SummaC; a text of only shorter ones is one sentence."""
    from pysbd import Segmenter

    parts = [part.strip() for part in Segmenter(language="en", clean=False).segment(text)]
    return [part for part in parts if len(part) > MIN_CHARACTERS] or [text.strip()] * bool(text.strip())


# --- EDNA


@dataclass(frozen=True)
class Edna:
    r"""EDNA of the summaries s_1 ... s_n of one document, high if faithful and diverse (Narayan et al. 2022).

    entailment: E(document, s_i) of each summary. self_entailment: the mean E(s_i, s_j) over i != j, both orders.
    """

    entailment: list[float]
    self_entailment: float

    @property
    def value(self) -> float:
        """The harmonic mean of the mean entailment and 1 - self-entailment, in [0, 1]; 0 when both are 0."""
        faithful, diverse = float(np.mean(self.entailment)), 1 - self.self_entailment
        return 2 * faithful * diverse / (faithful + diverse) if faithful + diverse > 0 else 0.0


def edna(documents: Sequence[str], samples: Sequence[Sequence[str]], consistency: Consistency) -> list[Edna]:
    """EDNA of each document and its samples, with E = `consistency`, which is called once.

    Entailment with a blank sample is 0. Raises UserError when a document has fewer than 2 samples.
    """
    pairs: list[tuple[str, str]] = []
    for number, (document, own) in enumerate(zip(documents, samples, strict=True)):
        if len(own) < 2:
            raise UserError(f"EDNA compares the samples of a prompt, at least 2; prompt {number} has {len(own)}")
        pairs += [(document, sample) for sample in own] + list(permutations(own, 2))
    scores = iter(consistency([a for a, _ in pairs], [b for _, b in pairs]))
    return [
        Edna(list(islice(scores, len(own))), float(np.mean(list(islice(scores, len(own) * (len(own) - 1))))))
        for own in samples
    ]
