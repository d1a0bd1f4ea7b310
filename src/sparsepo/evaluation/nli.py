"""What texts follow from what: an NLI classifier, SummaC over sentences, and EDNA of the summaries of a document."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsepo.evaluation.scorers import load_classifier
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.progress import progress

Consistency = Callable[[Sequence[str], Sequence[str]], list[float]]
"""(documents, summaries) -> how far each document entails its summary, in [0, 1]."""

WINDOW = 512  # tokens of premise and hypothesis, for a model that states no limit of its own
SHORTEST = 10  # characters: what is not longer is no sentence to SummaC
SENTENCES = 100  # of a document that SummaC looks at

# The edges of SummaC's histograms: percentiles of the entailment that its authors found in summaries.
_LOW, _MIDDLE = [0.0, 0.01, 0.02, 0.03, 0.04, 0.07, 0.13, 0.37], [0.90, 0.91, 0.92, 0.93, 0.94]
EDGES = np.array([*_LOW, *_MIDDLE, 0.95, 0.955, 0.96, 0.965, 0.97, 0.975, 0.98, 0.985, 0.99, 0.995, 1.0])
ROWS = 10  # sentences of a summary that SummaC-Conv looks at


# --- pairs of texts


class Entailment:
    """P(premise entails hypothesis) by an NLI sequence classifier.

    The model is a hub id or a folder; one of its two or more labels begins with "entail". A device is what torch calls
    it (None: an accelerator if there is one). Raises UserError when the model cannot be loaded, was never trained to
    classify, or has no such label.
    """

    def __init__(self, model: str, batch_size: int, device: str | None = None, pickled_weights: bool = False):
        import torch

        self.name, self.batch_size = model, batch_size
        self.tokenizer, self.model = load_classifier(model, "NLI model", pickled_weights)
        self.label = _entailment_label(model, self.model.config.id2label)
        self.limit = window(self.tokenizer, self.model.config)
        self.device = device or torch.accelerator.current_accelerator() or "cpu"
        self.model.eval().to(self.device)

    def scores(self, premises: Sequence[str], hypotheses: Sequence[str]) -> list[float]:
        """One probability a pair, in their order; nothing follows from a blank text, and a blank text from nothing: 0.

        Of a pair longer than the model's window the longer text, as a rule the premise, is cut at its end. Equal pairs
        are asked once, and batches hold pairs of like length. Raises UserError for a probability that is not finite.
        """
        pairs = list(zip(premises, hypotheses, strict=True))
        asked = {pair for pair in pairs if pair[0].strip() and pair[1].strip()}
        order = sorted(asked, key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        found: dict[tuple[str, str], float] = {}
        for batch in progress(batches, len(batches), "entailment"):
            found |= zip(batch, self._probabilities(batch), strict=True)
        return [found[pair] if pair in asked else 0.0 for pair in pairs]

    def _probabilities(self, batch: list[tuple[str, str]]) -> list[float]:
        import torch

        premises, hypotheses = map(list, zip(*batch, strict=True))
        settings = {"padding": True, "truncation": "longest_first", "max_length": self.limit, "return_tensors": "pt"}
        inputs = self.tokenizer(premises, hypotheses, **settings).to(self.device)
        with torch.inference_mode():
            found = self.model(**inputs).logits.float().softmax(-1)[:, self.label].tolist()
        if not all(map(math.isfinite, found)):
            raise UserError(f"NLI model '{self.name}' gave a probability that is not finite; are its weights whole?")
        return found


def _entailment_label(name: str, labels: dict[int, str]) -> int:
    found = [at for at, label in labels.items() if label.lower().startswith("entail")]
    if len(found) != 1 or len(labels) < 2:
        given = ", ".join(labels.values())
        raise UserError(f"NLI model '{name}' needs one label of several that begins with 'entail'; it has {given}")
    return found[0]


def window(tokenizer: Any, config: Any) -> int:
    """Tokens of a pair. A tokenizer may state no limit, and RoBERTa counts its positions from 2, hence the two."""
    positions = getattr(config, "max_position_embeddings", None) or WINDOW + 2
    stated = tokenizer.model_max_length
    return stated if stated <= positions else positions - 2


# --- SummaC


@dataclass(frozen=True)
class Convolution:
    r"""SummaC-Conv (Laban et al. 2022), with weights that were trained elsewhere.

    For column j of an image, H_j are the counts of its entries between `EDGES`, and
    $m = mean_j (w \cdot H_j + b)$ over the first `ROWS` columns;
    the score is the second entry of $softmax(V (m, m, m) + c)$.
    """

    weight: np.ndarray  # w: (23,)
    bias: float
    final: np.ndarray  # V: (2, 3)
    final_bias: np.ndarray  # c: (2,)

    def __call__(self, image: np.ndarray) -> float:
        """(sentences of a document, sentences of a summary) -> [0, 1]."""
        counts = np.stack([np.histogram(column, bins=EDGES)[0] for column in image.T[:ROWS]])
        first, second = self.final.sum(1) * (counts @ self.weight + self.bias).mean() + self.final_bias
        return float(1 / (1 + np.exp(first - second)))


def zero_shot(image: np.ndarray) -> float:
    r"""SummaC-ZS with entailment alone: $mean_j max_i image_{ij}$, i a sentence of the document, j of the summary."""
    return float(image.max(0).mean())


def read_convolution(path: str | Path) -> Convolution:
    """The weights that the authors of SummaC published, as they saved them. UserError for any other file."""
    import pickle

    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = {name: tensor.double().numpy() for name, tensor in state.items()}
        found = Convolution(
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
    return found


def build_summac(
    *, model: str, batch_size: int, conv: str | None = None, device: str | None = None, pickled_weights: bool = False
) -> Consistency:
    """SummaC-Conv with the weights of the file `conv`, or SummaC-ZS without, on the NLI classifier `model`."""
    pool = read_convolution(conv) if conv else zero_shot
    entailment = Entailment(model, batch_size, device, pickled_weights)
    return lambda documents, summaries: summac(documents, summaries, entailment.scores, pool)


def summac(
    documents: Sequence[str], summaries: Sequence[str], entails: Consistency, pool: Callable[[np.ndarray], float]
) -> list[float]:
    """One score a document and its summary: what `pool` makes of the image of their sentences.

    The image holds P(sentence i of the document entails sentence j of the summary). A blank document or summary has no
    image and scores 0.
    """
    split = {text: sentences(text) for text in {*documents, *summaries}}
    sides = [(split[a][:SENTENCES], split[b]) for a, b in zip(documents, summaries, strict=True)]
    pairs = [(premise, hypothesis) for rows, columns in sides for premise in rows for hypothesis in columns]
    flat = iter(entails([premise for premise, _ in pairs], [hypothesis for _, hypothesis in pairs]))
    images = [np.array([[next(flat) for _ in columns] for _ in rows]) for rows, columns in sides]
    return [pool(image) if image.size else 0.0 for image in images]


def sentences(text: str) -> list[str]:
    """English sentences longer than ten characters, as in SummaC; a text of shorter ones only stays whole."""
    from pysbd import Segmenter

    found = [sentence.strip() for sentence in Segmenter(language="en", clean=False).segment(text)]
    return [sentence for sentence in found if len(sentence) > SHORTEST] or [text.strip()] * bool(text.strip())


# --- EDNA


@dataclass(frozen=True)
class Edna:
    r"""Faithful and yet diverse: EDNA of the summaries s_1 ... s_n of one document (Narayan et al. 2022).

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

    A blank sample entails nothing and follows from nothing. Raises UserError when a document has fewer than 2 samples.
    """
    pairs: list[tuple[str, str]] = []
    for at, (document, drawn) in enumerate(zip(documents, samples, strict=True)):
        if len(drawn) < 2:
            raise UserError(f"EDNA compares the samples of a prompt and needs at least 2; prompt {at} has {len(drawn)}")
        pairs += [(document, sample) for sample in drawn]
        pairs += [(a, b) for i, a in enumerate(drawn) for j, b in enumerate(drawn) if i != j]
    flat = iter(consistency([a for a, _ in pairs], [b for _, b in pairs]))
    return [_edna([next(flat) for _ in range(len(drawn) ** 2)], len(drawn)) for drawn in samples]


def _edna(scores: list[float], count: int) -> Edna:
    """n scores of the document, then n (n - 1) of the pairs."""
    return Edna(scores[:count], float(np.mean(scores[count:])))
