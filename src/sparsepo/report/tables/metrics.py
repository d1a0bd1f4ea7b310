"""THE table of metrics: how each is printed, and which end of it is better. Plain data."""

import re
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Metric:
    """How a metric is printed: `scale` times what was measured, with `digits` decimals.

    `is_share`: what was measured is in [0, 1], and 0 or 1 is not certain where all values are.

    Where neither end is better, `higher_is_better` is None: nothing is ranked, marked or chosen by such a metric.
    """

    label: str
    digits: int = 3
    higher_is_better: bool | None = True
    scale: float = 1.0
    note: str = ""
    is_share: bool = False


METRICS = {
    "reward": Metric("reward"),
    "vader": Metric("VADER", note="VADER, a lexicon of sentiment, checks the reward independently."),
    "kl": Metric("KL", 2, None, note="KL is the exact one to the reference, in nats a response."),
    "rouge_1": Metric("ROUGE-1", note="ROUGE is F1 of stemmed words against the chosen summary."),
    "rouge_2": Metric("ROUGE-2"),
    "rouge_l": Metric("ROUGE-L"),
    "bertscore": Metric("BERTScore", note="BERTScore is F1 with IDF of the training summaries."),
    "self_bleu": Metric("self-BLEU", 2, False, note="Self-BLEU is among samples of a prompt: lower is more diverse."),
    "entailment": Metric("entailment", note="Entailment is of a summary by its document."),
    "edna": Metric("EDNA", note="EDNA is the harmonic mean of entailment and diversity."),
    "win_rate": Metric("win rate %", 1, scale=100.0, note="Win rate is against the chosen response; ties are 1/2.",
                       is_share=True),
    "length": Metric("length", 1, None, note="Length is in tokens, of summaries in words."),
    "pass@k": Metric("pass@k %", 1, scale=100.0, note="pass@k is the unbiased estimate.", is_share=True),
    "accuracy": Metric("accuracy", note="Accuracy is of the implicit reward on pairs.", is_share=True),
    "bbh": Metric("BBH", 2, note="Scores of the Open LLM Leaderboard 2 are normalised: 0 is chance, 100 is perfect."),
    "math": Metric("MATH", 2),
    "math_verify": Metric("MATH (verify)", 2, note="MATH (verify) judges equality by math-verify and is not in AVG."),
    "gpqa": Metric("GPQA", 2),
    "musr": Metric("MuSR", 2),
    "mmlu_pro": Metric("MMLU-Pro", 2),
    "ifeval_inst": Metric("IFEval inst.", 2),
    "ifeval_prompt": Metric("IFEval prompt", 2),
    "avg": Metric("AVG", 2, note="AVG is the mean of seven columns."),
    "zeros_m_u": Metric("zeros m_u", 3, None, note="Zeros is the share of mask weights that are exactly zero."),
    "zeros_m_d": Metric("zeros m_d", 3, None),
    "effective_beta": Metric("effective β", 3, None, note="Effective β is β times the mean weight m_u of a token."),
}  # fmt: skip
_PASS = re.compile(r"pass@\d+")


def metric_of(name: str) -> Metric:
    """The row of a metric; `pass@k` serves every k.

    A name without a row (of a user's scorer, of a task of lm-eval) is its own label and better when higher.
    """
    if _PASS.fullmatch(name):
        return replace(METRICS["pass@k"], label=METRICS["pass@k"].label.replace("pass@k", name))
    return METRICS[name] if name in METRICS else Metric(name)


def in_order(names: list[str]) -> list[str]:
    """Names in the order of the table; those without a row last, as given."""
    places = {name: place for place, name in enumerate(METRICS)}
    rows = {name: "pass@k" if _PASS.fullmatch(name) else name for name in names}
    return sorted(names, key=lambda name: places[rows[name]] if rows[name] in places else len(places))
