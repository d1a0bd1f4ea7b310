"""What one start of the workflow is to make, as `results/plan.json` keeps it for those who watch.

Snakemake alone knows which jobs it will run, and forgets them when it ends: so the workflow writes them down when it
starts, and at its end that it has ended. A Snakemake that is killed leaves `ended` empty.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sparsepo.data.records import parse_json, read_text, write_json
from sparsepo.runtime.errors import UserError

NAME = "plan.json"


@dataclass(frozen=True)
class Stage:
    """A rule that is watched: its last output under results/ and its log under logs/, by task and item.

    `extra_scorers`: other rules that make the same for other items.
    """

    rule: str
    output: str
    log: str
    also: tuple[str, ...] = ()


WATCHED = {
    "data": Stage("make_data", "{task}/data.json", "{task}/data.log"),
    "scorer": Stage("fit_scorer", "{task}/scorer/report.json", "{task}/scorer.log"),
    "sft": Stage("make_sft", "{task}/sft/run.json", "{task}/sft.log"),
    "preferences": Stage("make_preferences", "{task}/preferences/summary.json", "{task}/preferences.log"),
    "oracles": Stage("train_oracle", "{task}/oracles/{item}/policy/run.json", "{task}/oracles/{item}/train.log"),
    "reference": Stage("cache_reference", "{task}/reference/{item}/index.json", "{task}/reference/{item}.log"),
    "pairs of rounds": Stage("sample_round", "{task}/rounds/{item}/summary.json", "{task}/rounds/{item}/pairs.log"),
    "rounds": Stage("train_round", "{task}/rounds/{item}/policy/run.json", "{task}/rounds/{item}/train.log"),
    "train": Stage(
        "train_policy", "{task}/runs/{item}/run.json", "{task}/train/{item}.log", ("finish_rounds", "train_on_policy")
    ),
    "samples": Stage("sample_policy", "{task}/samples/{item}.jsonl", "{task}/sample/{item}.log"),
    "scores": Stage("evaluate_run", "{task}/scores/{item}.json", "{task}/evaluate/{item}.log"),
    "generations": Stage("generate", "{task}/generations/{item}.jsonl", "{task}/generate/{item}.log"),
    "summaries": Stage("measure_summaries", "{task}/summaries/{item}.json", "{task}/summaries/{item}.log"),
    "wins": Stage("measure_wins", "{task}/wins/{item}.json", "{task}/wins/{item}.log"),
    "benchmarks": Stage("measure_benchmarks", "{task}/benchmarks/{item}.json", "{task}/benchmarks/{item}.log"),
    "programs": Stage("sample_programs", "{task}/programs/{item}.jsonl", "{task}/programs/{item}.log"),
    "code": Stage("measure_code", "{task}/code/{item}.json", "{task}/code/{item}.log"),
}
"""In the order in which they run. An item is a run, a round of one, an oracle or a kind of cache; jobs of tables and
figures take seconds."""

Items = Mapping[str, bool]
"""Item -> whether this start makes it; what it does not make was up to date."""


@dataclass(frozen=True)
class Plan:
    """`tasks`: task -> stage -> items. `process` on `host` is Snakemake; if `local`, its jobs run there too.

    `started` and `ended` are seconds of the clock there.
    """

    configs: list[str]
    tasks: Mapping[str, Mapping[str, Items]]
    process: int
    host: str
    local: bool
    started: float
    ended: float | None = None


def write_plan(results: Path, plan: Plan) -> None:
    """Keep a plan, in the place of that of an earlier start."""
    write_json(results / NAME, asdict(plan))


def note_end(results: Path, now: float) -> None:
    """Write down that the Snakemake of the plan has ended; a full disk or a lost plan is no reason to fail then."""
    with suppress(UserError, OSError):
        write_plan(results, replace(read_plan(results), ended=now))


def read_plan(results: Path) -> Plan:
    """The plan of the last start. Raises UserError where there is none."""
    path = results / NAME
    if not results.is_dir():
        raise UserError(f"{results}: no such folder; the folder of the results of a workflow is expected")
    if not path.exists():
        raise UserError(f"{path}: no such file; start the workflow first (snakemake --cores 2), or name its results/")
    try:
        return Plan(**parse_json(read_text(path), str(path), "what the workflow wrote"))
    except TypeError:
        raise UserError(f"{path}: not a plan of this version of sparsepo; start the workflow again") from None
