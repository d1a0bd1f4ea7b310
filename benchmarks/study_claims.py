"""What the two studies say of each claim: `make study ARGS=claims`, after both of `configs/study/` have run.

Reads results/; writes docs/results/claims.md and a page for each study in docs/results/<task>/. A claim is a number
that should be above 0, with a 95% interval and the least value that would matter (its margin).
"""

import argparse
import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import ttest_ind
from sklearn.metrics import roc_auc_score

from sparsepo.evaluation.statistics import Interval, interval_of_means
from sparsepo.report.frontier_score import gain as frontier_gain
from sparsepo.report.tables.matched_kl import matched_kl_frame

ROOT = Path(__file__).resolve().parents[1]
PLANTED, IMDB = "planted_study", "imdb_study"
MARGIN = {"reward": 0.02, "share": 0.05, "AUC": 0.05, "log ratio": 0.1}
"""Unit -> the least value that would matter to a user."""
FIGURES = ("frontier", "sparsity", "token_kl", "token_comparison", "diversity")
Scores = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Study:
    """The runs of one task: files of scores, curves and tokens of each run, and the record of each training."""

    task: str
    results: Path
    scores: list[dict[str, Any]]
    frames: dict[str, Any] = field(default_factory=dict)

    def runs(self, method: str, **params: str) -> list[dict[str, Any]]:
        """Scores of a method's runs, all seeds, whose parameters have these values."""
        return [score for score in self.scores if score["method"] == method and has(score["params"], params)]

    def betas(self, method: str, **params: str) -> list[str]:
        return sorted({run["params"]["beta"] for run in self.runs(method, **params)}, key=float)

    def lines(self, folder: str, run: str) -> list[dict[str, Any]]:
        path = self.results / self.task / folder.format(run=run)
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def matched(self, method: str, baseline: str, **params: str) -> Interval | None:
        """Reward of a curve minus that of the baseline's first at equal KL, the mean over the KLs that both reach."""
        if baseline not in self.frames:
            self.frames[baseline] = matched_kl_frame(self.scores, baseline)
        frame = self.frames[baseline]
        if not (frame["method"] == baseline).any():
            return None
        for row in frame[(frame["method"] == method) & frame["kl"].isna()].to_dict("records"):
            own = dict(text.split("=") for text in row["params"].split(", ") if "=" in text)
            if has(own, params) and not math.isnan(row["difference"]):
                return Interval(row["difference"], row["difference_low"], row["difference_high"])
        return None


class Claim(NamedTuple):
    """What is claimed, by whom, and the number that should be above 0, in its unit."""

    source: str
    text: str
    measure: str
    unit: str
    value: Callable[[Study], Interval | None]
    studies: tuple[str, ...] = (PLANTED, IMDB)


# --- what is measured

OURS = {"form": "paper", "init": "ones", "normalise": "none"}
PUBLISHED = OURS | {"init": "authors"}
LEARNED = ("sparsepo_common", "sparsepo_independent")
NAMES = {"sparsepo_common": "common", "sparsepo_independent": "independent"}


def has(own: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Whether parameters have these values; those of OURS are the defaults of what is not given."""
    return all(own.get(name, OURS.get(name, value)) == value for name, value in wanted.items())


def with_betas(study: Study, method: str = "sparsepo_independent") -> dict[str, str]:
    """The published start where it was trained with several values of beta, else ours."""
    return PUBLISHED if len({run["params"]["beta"] for run in study.runs(method, **PUBLISHED)}) > 1 else OURS


def over_seeds(values: Sequence[float]) -> Interval | None:
    """Mean and 95% interval (Student's t) over trainings; None without any."""
    return interval_of_means(values, [None] * len(values)) if values else None


def by_seed(runs: Scores, value: Callable[[Mapping[str, Any]], float]) -> dict[int, float]:
    """Seed -> the mean of a number of its runs."""
    groups: dict[int, list[float]] = {}
    for run in runs:
        groups.setdefault(run["seed"], []).append(value(run))
    return {seed: fmean(values) for seed, values in groups.items()}


def paired(a: Mapping[int, float], b: Mapping[int, float]) -> Interval | None:
    """a - b over the seeds that both have."""
    return over_seeds([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())])


def zeros(run: Mapping[str, Any], mask: str) -> float:
    """The share of weights of a mask that are 0, over both responses of the validation pairs."""
    return fmean(run["sparsity"][mask].values())


def kl(run: Mapping[str, Any]) -> float:
    return fmean(run["kl_exact"])


def gain(study: Study) -> Callable[[Mapping[str, Any]], float]:
    """The reward of a run above that of SFT."""
    sft = fmean(study.runs("sft")[0]["reward"])
    return lambda run: fmean(run["reward"]) - sft


def ends(study: Study, value: Callable, method: str = "sparsepo_independent", **params: str) -> Interval | None:
    """The number at the largest beta minus that at the smallest."""
    low, high = study.betas(method, **params)[0], study.betas(method, **params)[-1]
    return paired(*(by_seed(study.runs(method, beta=beta, **params), value) for beta in (high, low)))


def largest_kl(study: Study) -> Interval | None:
    """log of (the largest KL of SparsePO over that of DPO), over the values of beta that both have."""
    start = with_betas(study)
    shared = set(study.betas("sparsepo_independent", **start)) & set(study.betas("dpo"))
    logs = []
    for method in ("sparsepo_independent", "dpo"):
        largest: dict[int, float] = {}
        for run in study.runs(method, **(start if method in LEARNED else {})):
            if run["params"]["beta"] in shared:
                largest[run["seed"]] = max(largest.get(run["seed"], 0.0), kl(run))
        logs.append({seed: math.log(value) for seed, value in largest.items()})
    return paired(*logs)


def fallen_zeros(study: Study) -> Interval | None:
    """The share of zeros of m_u in the first step of training minus that in the last, with the published start."""

    def fallen(run: Mapping[str, Any]) -> float:
        rows = study.lines("runs/{run}/dynamics.jsonl", run["run"])
        shares = [fmean([row["sparsity_u_chosen"], row["sparsity_u_rejected"]]) for row in rows if "loss" in row]
        return shares[0] - shares[-1]

    return over_seeds([*by_seed(study.runs("sparsepo_independent", **PUBLISHED), fallen).values()])


def auc(signal: str, comparison: str = "slots_among_slots", chance: float = 0.5) -> Callable:
    """The AUC of a signal above chance, in a run on planted data."""
    return lambda run: run["auc"][signal][comparison]["auc"] - chance


def polar(study: Study) -> Callable[[Mapping[str, Any]], float]:
    """How well m_u of a run ranks tokens that are words of VADER's lexicon above other words: AUC above chance."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    lexicon = SentimentIntensityAnalyzer().lexicon

    def value(run: Mapping[str, Any]) -> float:
        weights, labels = [], []
        for row in study.lines("tokens/{run}.jsonl", run["run"]):
            for side in (row["chosen"], row["rejected"]):
                for token, weight in zip(side["tokens"], side["m_u"], strict=True):
                    if re.fullmatch(r"\W?[A-Za-z]{3,}", token):
                        labels.append(re.sub(r"\W", "", token).lower() in lexicon)
                        weights.append(weight)
        return float(roc_auc_score(labels, weights)) - 0.5

    return value


def middle(study: Study) -> Interval | None:
    """How much further m_u and m_d are apart in their zeros outside of beta 0.6 to 4 than inside."""
    apart = lambda run: abs(zeros(run, "m_u") - zeros(run, "m_d"))  # noqa: E731
    runs = study.runs("sparsepo_independent", **with_betas(study))
    inside = [run for run in runs if 0.6 <= float(run["params"]["beta"]) <= 4]
    return (
        paired(by_seed([run for run in runs if run not in inside], apart), by_seed(inside, apart)) if inside else None
    )


def at_low_beta(study: Study) -> Interval | None:
    """Zeros of m_u minus zeros of m_d at the smallest beta."""
    start = with_betas(study)
    runs = study.runs("sparsepo_independent", **start, beta=study.betas("sparsepo_independent", **start)[0])
    return over_seeds([*by_seed(runs, lambda run: zeros(run, "m_u") - zeros(run, "m_d")).values()])


def dead(study: Study) -> Interval | None:
    """Gain in reward of runs with a living mask minus that of runs whose m_u is all 0, each over seeds."""
    runs = [run for name in LEARNED for run in study.runs(name, init="authors")]
    groups = [[gain(study)(run) for run in runs if (zeros(run, "m_u") > 0.99) == is_dead] for is_dead in (False, True)]
    if min(map(len, groups)) < 2:
        return None
    return Interval(fmean(groups[0]) - fmean(groups[1]), *ttest_ind(*groups, equal_var=False).confidence_interval())


# --- the claims

PAPER, PROJECT = "SparsePO paper", "this project"

CLAIMS = [
    *(Claim(PAPER, f"SparsePO ({NAMES[method]}) is above {label} at equal KL (Figure 2)",
            f"reward at equal KL, SparsePO ({NAMES[method]}) − {label}", "reward",
            lambda study, method=method, base=base: study.matched(method, base, **OURS))
      for base, label in (("dpo", "DPO"), ("tdpo2", "TDPO v2")) for method in LEARNED),
    Claim(PAPER, "SparsePO allows a larger KL than DPO over the same β",
          "log of the ratio of the largest KLs", "log ratio",
          largest_kl),
    Claim(PAPER, "m_u starts with many zeros and ends with fewer (Figure 3)",
          "zeros of m_u, first step − last step", "share",
          fallen_zeros),
    Claim(PAPER, "the larger β, the more zeros in m_d (Figure 3)", "zeros of m_d, largest β − smallest β", "share",
          lambda study: ends(study, lambda run: zeros(run, "m_d"), **with_betas(study))),
    Claim(PAPER, "the larger β, the lower the KL", "log KL, smallest β − largest β", "log ratio",
          lambda study: ends(study, lambda run: -math.log(kl(run)), **with_betas(study))),
    Claim(PAPER, "a low β gives m_u more zeros than m_d", "zeros of m_u − zeros of m_d at the smallest β", "share",
          at_low_beta),
    Claim(PAPER, "zeros of the two masks are closest for β from 0.6 to 4",
          "abs(zeros of m_u − zeros of m_d), other β − these", "share", middle),
    Claim(PAPER, "masks weigh words of sentiment (Figures 1, 4)",
          "AUC of m_u above chance, for words of VADER's lexicon among words", "AUC",
          lambda study: over_seeds([*by_seed(study.runs("sparsepo_common", **OURS), polar(study)).values()]), (IMDB,)),
    Claim(PAPER, "common masks have fewer zeros than independent ones", "zeros of m_u, independent − common", "share",
          lambda study: paired(*(by_seed(study.runs(name, **with_betas(study)), lambda run: zeros(run, "m_u"))
                                 for name in reversed(LEARNED)))),
    Claim(PAPER, "common masks give a lower reward than independent ones", "reward at equal KL, independent − common",
          "reward", lambda study: study.matched("sparsepo_independent", "sparsepo_common", **OURS)),
    Claim(PROJECT, "a mask that finds what matters beats random weights at equal KL",
          "reward at equal KL, SparsePO (common) − random weights", "reward",
          lambda study: study.matched("sparsepo_common", "sparsepo_random", **OURS)),
    Claim(PROJECT, "a learned mask beats weights of 1 at equal KL",
          "reward at equal KL, SparsePO (common) − uniform weights", "reward",
          lambda study: study.matched("sparsepo_common", "sparsepo_uniform", **OURS)),
    Claim(PROJECT, "learned masks find the positions that matter (the default start)",
          "AUC of m_u above chance, among open slots",
          "AUC", lambda study: over_seeds([*by_seed(study.runs("sparsepo_common", **OURS), auc("m_u")).values()]),
          (PLANTED,)),
    Claim(PROJECT, "knowing the words that matter buys reward at equal KL: the ceiling",
          "reward at equal KL, weights of the planted truth − DPO", "reward",
          lambda study: study.matched("sparsepo_oracle", "dpo", form="paper"), (PLANTED,)),
    Claim(PROJECT, "learned masks are below that ceiling",
          "reward at equal KL, weights of the planted truth − SparsePO (common)", "reward",
          lambda study: study.matched("sparsepo_oracle", "sparsepo_common", form="paper"), (PLANTED,)),
    Claim(PROJECT, "the two forms send m_d opposite ways",
          "AUC of m_d among open slots, released form − paper form", "AUC",
          lambda study: paired(*(by_seed(study.runs("sparsepo_independent", **{**OURS, "form": form}), auc("m_d"))
                                 for form in ("released", "paper"))), (PLANTED,)),
    Claim(PROJECT, "a mask that is dead from the start costs reward",
          "gain over SFT, living masks − dead masks (authors' start, over runs)", "reward", dead, (PLANTED,)),
    Claim(PROJECT, "MaPO finds more when read as the authors' code does",
          "AUC of m_u, authors − paper, among open slots",
          "AUC", lambda study: paired(*(by_seed(study.runs("mapo", reading=reading), auc("m_u"))
                                        for reading in ("authors", "paper"))), (PLANTED,)),
    Claim(PROJECT, "MaPO is below DPO at equal KL", "reward at equal KL, DPO − MaPO", "reward",
          lambda study: study.matched("dpo", "mapo")),
]  # fmt: skip


def verdict(value: Interval, margin: float, seeds: int) -> str:
    """Holds: the whole interval is above 0. Does not: all of it is below the margin. Else what would tell."""
    if math.isnan(value.low):
        return "cannot be told: one value only"
    if value.low > 0:
        return "holds" if value.high > margin else "holds, but less than what matters"
    if value.high < margin:
        return "does not hold" if value.high >= 0 or value.mean > -margin else "the opposite holds"
    half = (value.high - value.low) / 2
    return f"cannot be told; about {max(seeds + 1, math.ceil(seeds * (half / margin) ** 2))} seeds would"


def claim_table(studies: Sequence[Study]) -> str:
    """A row for each claim and study, in Markdown; of one study without a column for it."""
    name = len(studies) > 1
    heads = ["claim", "of", *["study"] * name, "measured", "value [95%]", "matters from", "verdict"]
    rows = [heads, ["---"] * len(heads)]
    for claim in CLAIMS:
        for study in (study for study in studies if study.task in claim.studies):
            value, margin = claim.value(study), MARGIN[claim.unit]
            text, said = "not measured", "-"
            if value is not None:
                text = f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"
                said = verdict(value, margin, len({score["seed"] for score in study.scores} - {None}))
            where = [f"[{study.task}]({study.task}/README.md)"] * name
            rows.append([claim.text, claim.source, *where, claim.measure, text, f"{margin} {claim.unit}", said])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def rates(study: Study) -> str:
    """A line for each method: the frontier score of each of its learning rates, the best one first (a rule that is set
    before the runs: see configs/study/imdb_tuning.yaml)."""
    sft = fmean(study.runs("sft")[0]["reward"])
    points: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for run in study.scores:
        if run["method"] != "sft":
            points.setdefault((run["method"], run["params"]["learning_rate"]), []).append(
                (kl(run), fmean(run["reward"]))
            )
    largest: dict[str, float] = {}
    for (method, _), own in points.items():
        largest[method] = max(largest.get(method, 0.0), *(x for x, _ in own))
    budget = float(np.median([*largest.values()]))
    found = {key: frontier_gain(np.array([(0.0, sft), *own]), budget) for key, own in points.items()}
    lines = [f"frontier scores up to a KL of {budget:.2f} nats"]
    for method in largest:
        own = sorted(((score, rate) for (name, rate), score in found.items() if name == method), reverse=True)
        lines.append(f"{method}: " + ", ".join(f"{rate} ({score:.3f})" for score, rate in own))
    return "\n".join(lines)


# --- pages

CONFIGS = {PLANTED: "configs/study/planted.yaml", IMDB: "configs/study/imdb.yaml"}


def load(results: Path, task: str) -> Study | None:
    paths = sorted((results / task / "scores").rglob("*.json"))
    scores = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return Study(task, results, scores) if scores else None


def how_it_ran(study: Study) -> str:
    """Machine, versions and hours of the trainings, as their records have them."""
    records = [json.loads(path.read_text(encoding="utf-8"))
               for path in sorted((study.results / study.task).glob("**/run.json"))]  # fmt: skip
    first = records[0]
    packages, hardware = first["environment"]["packages"], first["hardware"]
    minutes = sum(record["seconds"] for record in records) / 60
    return (
        f"{len(records)} trainings, {minutes:.0f} minutes of training in all, on {hardware['cpus']} cores of "
        f"{hardware['cpu']}, {hardware['memory_mb'] / 1000:.0f} GB; torch {packages['torch']}, transformers "
        f"{packages['transformers']}, Python {first['environment']['python']}."
    )


def samples(study: Study, prompts: int = 4) -> str:
    """The first response of some systems to the first prompts, for a person to read."""
    shown = ["sft", *(study.runs(name)[0]["run"] for name in ("dpo", *LEARNED) if study.runs(name))]
    lines = []
    for run in shown:
        own: dict[str, str] = {}
        for row in study.lines("samples/{run}.jsonl", run):
            own.setdefault(row["prompt"], row["text"])
        lines.append(f"`{run}`\n")
        lines += [f"- **{prompt}** {' '.join(text.split())}" for prompt, text in [*own.items()][:prompts]] + [""]
    return "\n".join(lines)


def write_page(study: Study, out: Path) -> None:
    """README.md with tables and figures, beside copies of the files that they are from."""
    folder, tables = out / study.task, study.results / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(tables.glob(f"{study.task}*.*")):
        name = path.name.removeprefix(study.task).removeprefix("_")
        if path.suffix in (".md", ".csv"):
            shutil.copyfile(path, folder / (name if name[0] != "." else f"table{name}"))
    figures = [name for name in FIGURES if (study.results / f"figures/{study.task}/{name}.png").exists()]
    for name in figures:
        shutil.copyfile(study.results / f"figures/{study.task}/{name}.png", folder / f"{name}.png")
    config = CONFIGS[study.task]
    comment = (ROOT / config).read_text(encoding="utf-8").split("\n#\n")[0].splitlines()
    said = [line.removeprefix("# ") for line in comment if "yaml-language-server" not in line]
    matched = (folder / "matched_kl.md").read_text(encoding="utf-8")
    parts = [f"# {said[0]}", " ".join(said[1:]), f"    snakemake --cores 2 --configfile {config}", how_it_ran(study)]
    parts += ["## What it says of the claims", claim_table([study]), "## Rewards at the same KL", matched]
    links = ["[every setting](grid.md)", "[each method at the β that validation prompts chose](table.md)"]
    links += ["[what finds the words that matter](auc.md)"] * (folder / "auc.md").exists()
    parts += [f"More tables: {', '.join(links)}.", "## Figures"]
    parts += [f"![{name}]({name}.png)" for name in figures] + ["## Samples", samples(study)]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results")
    parser.add_argument("--rates", metavar="TASK", help="print the learning rate of each method instead")
    options = parser.parse_args()
    if options.rates:
        study = load(options.results, options.rates)
        sys.exit(f"error: {options.results / options.rates} has no scores" if study is None else print(rates(study)))
    studies = [study for task in (PLANTED, IMDB) if (study := load(options.results, task))]
    for study in studies:
        write_page(study, options.out)
    text = (Path(__file__).parent / "study_claims.md").read_text(encoding="utf-8")
    (options.out / "claims.md").write_text(text.format(table=claim_table(studies)), encoding="utf-8")


if __name__ == "__main__":
    main()
