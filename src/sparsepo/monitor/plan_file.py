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


WATCHED = {
    "prepare_data": "{task}/data.json",
    "fit_scorer": "{task}/scorer/report.json",
    "train_sft": "{task}/sft/run.json",
    "build_preferences": "{task}/preferences/summary.json",
    "train_oracle": "{task}/oracles/{item}/policy/run.json",
    "train_swapped_oracle": "{task}/oracles/{item}/swapped/run.json",
    "cache_reference": "{task}/reference/{item}/index.json",
    "build_round_pairs": "{task}/rounds/{item}/summary.json",
    "train_round": "{task}/rounds/{item}/policy/run.json",
    "train_together": "{task}/runs/{item}/together.json",
    "train_policy": "{task}/runs/{item}/run.json",
    "finish_rounds": "{task}/runs/{item}/run.json",
    "train_on_policy": "{task}/runs/{item}/run.json",
    "sample_responses": "{task}/samples/{item}.jsonl",
    "evaluate_run": "{task}/scores/{item}.json",
    "sample_generations": "{task}/generations/{item}.jsonl",
    "measure_summaries": "{task}/summaries/{item}.json",
    "measure_win_rate": "{task}/win_rate/{item}.json",
    "measure_benchmarks": "{task}/benchmarks/{item}.json",
    "sample_programs": "{task}/programs/{item}.jsonl",
    "measure_pass_at_k": "{task}/pass_at_k/{item}.json",
}
"""Stage that is watched -> its last output under results/, by task and item; in the order in which they run.

An item is a run, a round of one, an oracle or a kind of cache; jobs of tables and figures take seconds."""


def output_path(results: Path, stage: str, task: str, item: str) -> Path:
    """The last output of a job."""
    return results / WATCHED[stage].format(task=task, item=item)


def log_path(results: Path, stage: str, task: str, item: str) -> Path:
    """The log of a job."""
    return results.absolute().parent / "logs" / task / f"{stage}{'/' * bool(item)}{item}.log"


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
