"""Sampled summaries, measured: against the reference, against the document and against each other."""

from collections.abc import Callable, Sequence
from typing import Any

from sparsepo.config.evaluation import SummaryConfig
from sparsepo.evaluation.nli import build_summac, edna, max_pair_tokens
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.progress import progress

Measurement = dict[str, list]
"""{"values": one number of each item, "groups": the prompt it belongs to, counted from 0}."""

Measure = Callable[[Sequence[str], Sequence[str], Sequence[Sequence[str]]], dict[str, Measurement]]
"""(documents, references, samples of each document) -> measurements by name."""

PROMPT_MEASURES = ("self_bleu", "edna")  # the others have a value of each sample

BATCH = 64  # texts that BERTScore encodes at once


def build_summary_measures(section: SummaryConfig, idf_texts: Sequence[str]) -> Measure:
    """What the section `summaries` asks for, with its models loaded; the IDF of BERTScore comes from `idf_texts`.

    One value a sample: length (words between blanks, see `split_scripts`); rouge_1, rouge_2, rouge_l, and entailment
    (of the sample by its document), in [0, 1]; bertscore, in [-1, 1]. One a prompt: self_bleu, in [0, 100]; edna, in
    [0, 1]. What has no value (see `rouge`, `self_bleu`) is left out, and `left_out_notes` counts it.
    The measure raises UserError for a reference that is needed and missing, and for fewer than 2 samples where samples
    are compared.
    """
    bertscore = build_bertscore(**dict(section.bertscore), idf_texts=idf_texts) if section.bertscore else None
    consistency = build_summac(**dict(section.entailment)) if section.entailment else None

    def measure(
        documents: Sequence[str], references: Sequence[str], samples: Sequence[Sequence[str]]
    ) -> dict[str, Measurement]:
        texts = [text for own in samples for text in own]
        repeated = [reference for reference, own in zip(references, samples, strict=True) for _ in own]
        measures = {"length": [float(len(split_scripts(text).split())) for text in texts]}
        if section.rouge or bertscore:
            for number, (document, reference) in enumerate(zip(documents, references, strict=True)):
                if not reference.strip():
                    raise UserError(
                        "ROUGE and BERTScore compare with a reference summary, and there is none for "
                        f"prompt {number}, which begins {document[:60]!r}"
                    )
        if section.rouge:
            measures |= rouge(repeated, texts)
        if bertscore:
            measures["bertscore"] = bertscore(repeated, texts)
        if section.self_bleu:
            measures["self_bleu"] = self_bleu(samples)
        if consistency:
            ednas = edna(documents, samples, consistency)
            measures["entailment"] = [value for prompt_edna in ednas for value in prompt_edna.entailment]
            measures["edna"] = [prompt_edna.value for prompt_edna in ednas]
        prompts = list(range(len(samples)))
        groups = [prompt for prompt in prompts for _ in samples[prompt]]
        return {
            name: _without_none(values, prompts if name in PROMPT_MEASURES else groups)
            for name, values in measures.items()
        }

    return measure


def _without_none(values: Sequence[float | None], groups: Sequence[int]) -> Measurement:
    kept = [(value, group) for value, group in zip(values, groups, strict=True) if value is not None]
    return {"values": [value for value, _ in kept], "groups": [group for _, group in kept]}


def left_out_notes(section: SummaryConfig, references: Sequence[str], samples: Sequence[Sequence[str]]) -> list[str]:
    """How many samples are blank, and how many prompts have no self-BLEU or no ROUGE."""
    blank = sum(not text.strip() for own in samples for text in own)
    notes = [f"{blank:,} of {sum(map(len, samples)):,} samples are blank"] * bool(blank)
    if section.self_bleu:
        few = sum(len(_written(own)) < 2 for own in samples)
        notes += [f"{few:,} of {len(samples):,} prompts have fewer than 2 samples with text, and no self-BLEU"] * bool(
            few
        )
    if section.rouge:
        tokenizer = UnicodeTokenizer()
        wordless = sum(not tokenizer.tokenize(reference) for reference in references)
        notes += [f"{wordless:,} of {len(references):,} references have no word, and no ROUGE"] * bool(wordless)
    return notes


# --- words of any script

_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
"""Letters of scripts without spaces between words: each is a word, as in sacrebleu's tokenizer of Chinese."""
_WORDS = rf"{_UNSPACED}\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}]--{_UNSPACED}]+"


def split_scripts(text: str) -> str:
    """The text with spaces around each letter of a script that has none between words; other texts as they are."""
    import regex

    return regex.sub(rf"({_UNSPACED}\p{{M}}*)", r" \1 ", text)


class UnicodeTokenizer:
    """The tokenizer of rouge-score, with words of any script: runs of letters and digits, lower-cased.

    It gives the same words as rouge-score for texts of ASCII, those of more than three letters by Porter's stemmer;
    all other letters are spaces to rouge-score.
    """

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self.stemmer = PorterStemmer()

    def tokenize(self, text: str) -> list[str]:
        import regex

        words = regex.findall(_WORDS, text.lower(), regex.V1)
        return [self.stemmer.stem(word) if len(word) > 3 and word.isascii() else word for word in words]


def rouge(references: Sequence[str], candidates: Sequence[str]) -> dict[str, list[float | None]]:
    r"""F1 of ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), in [0, 1], by rouge-score; words are those of `UnicodeTokenizer`.

    $F_1 = 2 P R / (P + R)$; P and R are the unigrams, bigrams or the longest common subsequence that both have, over
    those of the candidate and of the reference. A candidate without words scores 0; against a reference without words
    there is no score.
    """
    from rouge_score.rouge_scorer import RougeScorer

    names = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
    tokenizer = UnicodeTokenizer()
    scorer = RougeScorer(list(names.values()), tokenizer=tokenizer)
    scores = [
        scorer.score(reference, text) if tokenizer.tokenize(reference) else None
        for reference, text in zip(references, candidates, strict=True)
    ]
    return {name: [score and score[their_name].fmeasure for score in scores] for name, their_name in names.items()}


def build_bertscore(
    *, model: str, layers: int, idf_texts: Sequence[str], pickled_weights: bool = False
) -> Callable[[Sequence[str], Sequence[str]], list[float]]:
    r"""(references, candidates) -> F1 of BERTScore (Zhang et al. 2020), not rescaled, by bert-score.

    Each token of one text is matched to the most similar of the other by the cosine of their vectors after `layers`
    layers of `model` (hub id or folder; 17 for roberta-large); the mean over the candidate's tokens is P, over the
    reference's R, each token weighted by $\log((N + 1) / (n + 1))$ if n of the N `idf_texts` have it. Texts are cut at
    the model's positions, also where its tokenizer states no limit; a blank one, on which bert-score fails, scores 0.
    In a batch with longer texts, a negative best cosine of a token counts as 0; it is rare in trained encoders.
    Raises UserError for a model that cannot be loaded or has fewer layers, and without texts for the IDF.
    """
    known = [text for text in idf_texts if text.strip()]
    if not known:
        raise UserError("BERTScore weights tokens by their frequency in training references, and there are none")
    scorer = _bert_scorer(model, layers, pickled_weights)
    scorer._tokenizer.model_max_length = max_pair_tokens(scorer._tokenizer, scorer._model.config)
    scorer.compute_idf(known)

    def score(references: Sequence[str], candidates: Sequence[str]) -> list[float]:
        pairs = list(zip(references, candidates, strict=True))
        distinct = list(dict.fromkeys(pair for pair in pairs if pair[0].strip() and pair[1].strip()))
        half = BATCH // 2  # a batch of bert-score holds both sides; it would order several batches by a set
        batches = [distinct[start : start + half] for start in range(0, len(distinct), half)]
        scores: dict[tuple[str, str], float] = {}
        for batch in progress(batches, len(batches), "BERTScore"):
            batch_references, texts = map(list, zip(*batch, strict=True))
            _, _, f1 = scorer.score(texts, batch_references, batch_size=BATCH)
            scores |= zip(batch, f1.tolist(), strict=True)
        return [scores.get(pair, 0.0) for pair in pairs]

    return score


def _bert_scorer(model: str, layers: int, pickled_weights: bool) -> Any:
    from bert_score import BERTScorer
    from transformers import AutoModel

    from sparsepo.models.trust import trust_kwargs

    try:
        # bert-score loads pickled weights too; here they are refused first
        AutoModel.from_pretrained(model, **trust_kwargs(pickled_weights=pickled_weights))
        return BERTScorer(model_type=model, num_layers=layers, idf=True, nthreads=0)
    except (OSError, ValueError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"BERTScore model '{model}' with {layers} layers cannot be used: {reason}") from None


def _written(samples: Sequence[str]) -> list[str]:
    """The samples that are not blank."""
    return [text for text in samples if text.strip()]


def self_bleu(samples: Sequence[Sequence[str]]) -> list[float | None]:
    """How similar the samples of each prompt are, in [0, 100]: the lower, the more diverse (Zhu et al. 2018).

    The mean sentence BLEU of each sample against all others as references, by sacrebleu: n-grams up to 4, or as long as
    the sample is, with exponential smoothing; words are sacrebleu's, after `split_scripts`. Blank samples, which would
    be the most diverse, are left out, and a prompt with fewer than 2 others has no value. Raises UserError for fewer
    than 2 samples.
    """
    from sacrebleu.metrics import BLEU

    bleu = BLEU(effective_order=True)
    means = []
    for number, own in enumerate(samples):
        if len(own) < 2:
            raise UserError(f"self-BLEU compares the samples of a prompt, at least 2; prompt {number} has {len(own)}")
        texts = [split_scripts(text) for text in _written(own)]
        others = [[*texts[:index], *texts[index + 1 :]] for index in range(len(texts))]
        scores = [bleu.sentence_score(text, rest).score for text, rest in zip(texts, others, strict=True) if rest]
        means.append(sum(scores) / len(scores) if scores else None)
    return means
