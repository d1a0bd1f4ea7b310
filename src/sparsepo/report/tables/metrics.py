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
    "kl_per_token": Metric("KL / token", 3, None, note="KL / token is the KL of a response divided by its tokens."),
    "rouge_1": Metric("ROUGE-1", note="ROUGE is F1 of stemmed words against the chosen summary."),
    "rouge_2": Metric("ROUGE-2"),
    "rouge_l": Metric("ROUGE-L"),
    "bertscore": Metric("BERTScore", note="BERTScore is F1 with IDF of the training summaries."),
    "self_bleu": Metric("self-BLEU", 2, False, note="Self-BLEU is among samples of a prompt: lower is more diverse."),
    "entailment": Metric("entailment", note="Entailment is of a summary by its document."),
    "edna": Metric("EDNA", note="EDNA is the harmonic mean of entailment and diversity."),
    "win_rate": Metric("win rate %", 1, scale=100.0, note="Win rate is against the chosen response; ties are 1/2.",
                       is_share=True),
    "win_rate_lc": Metric("LC win rate %", 1, scale=100.0, note="LC win rate is at equal lengths, by the regression of"
        " AlpacaEval 2 without its term for the difficulty of an instruction."),
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
VERSUS = "Win rate vs a method is against its responses to the same prompts, at the first point of its grid."
_PASS = re.compile(r"pass@\d+")
_WIN_RATE = re.compile(r"win_rate(?:_(?!vs_|lc$)(?P<judge>[^_]+))?(?:_vs_(?P<opponent>.+?))?(?P<lc>_lc)?")


def metric_of(name: str) -> Metric:
    """The row of a metric; `pass@k` serves every k, `win_rate` every judge and opponent.

    A name without a row (of a user's scorer) is its own label and better when higher. Of tasks of lm-eval see
    `Comparison.metric`.
    """
    if _PASS.fullmatch(name):
        return replace(METRICS["pass@k"], label=METRICS["pass@k"].label.replace("pass@k", name))
    if match := _WIN_RATE.fullmatch(name):
        row = METRICS["win_rate_lc" if match["lc"] else "win_rate"]
        against = f" vs {'SFT' if match['opponent'] == 'sft' else match['opponent']}" if match["opponent"] else ""
        label = row.label + against + (f" ({match['judge']})" if match["judge"] else "")
        return replace(row, label=label, note=row.note if match["lc"] or not against else VERSUS)
    return METRICS[name] if name in METRICS else Metric(name)


def in_order(names: list[str]) -> list[str]:
    """Names in the order of the table; those without a row last, as given."""
    places = {name: place for place, name in enumerate(METRICS)}
    rows = {name: _row_name(name) for name in names}
    return sorted(names, key=lambda name: places[rows[name]] if rows[name] in places else len(places))


def _row_name(name: str) -> str:
    """The name in the table of a metric that serves several."""
    if _PASS.fullmatch(name):
        return "pass@k"
    match = _WIN_RATE.fullmatch(name)
    return name if not match else "win_rate_lc" if match["lc"] else "win_rate"
