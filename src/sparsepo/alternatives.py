"""Which rows of the tables of alternatives a job uses: losses, mask heads, sources, scorers. See `codeversion`."""

from collections.abc import Iterable, Mapping
from typing import Any

from sparsepo.config import TaskConfig
from sparsepo.config.online import judge_of_rounds, reward_of
from sparsepo.config.runs import find_run, selecting
from sparsepo.methods.registry import METHODS, STAND_IN, looking_into_pairs

Rows = dict[str, tuple[str, ...]]
"""Table, as `codeversion.Tables` names it -> the rows that a job uses."""


def _of_method(method: str, given: Mapping[str, Any]) -> Rows:
    """Of the table of methods no row: what it says is in the settings, by value. What is allowed changes no result."""
    row = METHODS[method]
    mask = row.mask(given)
    return {
        "sparsepo.methods.registry.METHODS": (),
        "sparsepo.methods.parameters.ALLOWED": (),
        "sparsepo.methods.method.MASKS": () if mask == "none" else (mask,),
        "sparsepo.objective.losses.LOSSES": (row.loss,),
        "sparsepo.objective.mask_builder.HEADS": () if mask == "none" else (mask,),
        "sparsepo.training.step_statistics.STATISTICS": (row.statistic,) if row.statistic else (),
    }


def _scorers(scorers: Iterable[Any]) -> Rows:
    return {"sparsepo.evaluation.scorers.SCORERS": tuple({scorer.kind for scorer in scorers if scorer})}


def _formats(task: TaskConfig) -> Rows:
    """Only data that exist have a format."""
    used = (task.preferences.source,) if task.data.source == "preferences" else ()
    one_object = tuple(source for source in used if source == "rated_posts")
    return {"sparsepo.data.preference_formats.FORMATS": used, "sparsepo.data.preference_formats.ONE_OBJECT": one_object}


def _data(task: TaskConfig, run: str, kind: str) -> Rows:
    first = {"FIRST": ("problems",) if task.data.source == "problems" else ()}
    return first | {"sparsepo.data.sources.SOURCES": (task.data.source,)} | _formats(task)


def _preferences(task: TaskConfig, run: str, kind: str) -> Rows:
    source = task.preferences.source
    makers = {"MAKERS": (source,) if source in ("generated", "executed") else ()}
    return makers | _scorers([getattr(task.preferences, "scorer", None)]) | _formats(task)


def _reference(task: TaskConfig, run: str, kind: str) -> Rows:
    return {
        "sparsepo.methods.registry.METHODS": (),
        "sparsepo.methods.parameters.ALLOWED": (),
        "sparsepo.objective.losses.LOSSES": (),
        "sparsepo.training.step_statistics.STATISTICS": (),
        "sparsepo.methods.method.MASKS": (),
        "sparsepo.objective.mask_builder.HEADS": ("activations",) if kind.startswith("weights~") else (),
    }


def _selection(task: TaskConfig, run: str, kind: str) -> Rows:
    """Of the methods whose runs it shows, the shares of tokens that they keep if a run says none."""
    methods = {path.split("/")[0] for path in selecting(task)}
    return _reference(task, run, "") | {"sparsepo.methods.registry.METHODS": tuple(sorted(methods))}


def _train(task: TaskConfig, run: str, kind: str) -> Rows:
    made = find_run(task, run)
    ends = METHODS[made.method].trainer == "rounds" and task.evaluation.scorer is not None
    measured = task.training.frontier_every > 0 or ends
    meters = {"METERS": ("frontier",) if measured else ()}
    return meters | _of_method(made.method, made.hyper) | _scorers([task.evaluation.scorer] if measured else [])


def _sample_round(task: TaskConfig, run: str, kind: str) -> Rows:
    return _judges(judge_of_rounds(task)) | _reference(task, run, "logps")


def _train_on_policy(task: TaskConfig, run: str, kind: str) -> Rows:
    """No loss of pairs, no mask; the scorer that rewards, and that of the frontier."""
    measured = task.training.frontier_every > 0
    row = METHODS[find_run(task, run).method]
    rewarded = "beta" in row.hyper or not task.training.on_policy.words
    scorers = [reward_of(task)] * rewarded + [task.evaluation.scorer] * measured
    return {
        "METERS": ("frontier",) if measured else (),
        "sparsepo.methods.registry.METHODS": (),
        "sparsepo.methods.parameters.ALLOWED": (),
        "sparsepo.methods.method.MASKS": (),
        "sparsepo.objective.losses.LOSSES": (),
        "sparsepo.objective.mask_builder.HEADS": (),
        "sparsepo.training.step_statistics.STATISTICS": (),
    } | _scorers(scorers)


def _evaluate(task: TaskConfig, run: str, kind: str) -> Rows:
    made = None if run == "sft" else find_run(task, run)
    looks = (looking_into_pairs(made.method), made.hyper) if made else (STAND_IN, {})
    return _of_method(*looks) | _scorers([task.evaluation.scorer, *task.evaluation.also.values()])


def _wins(task: TaskConfig, run: str, kind: str) -> Rows:
    return _judges(task.evaluation.wins)


def _judges(judge: Any) -> Rows:
    return {"sparsepo.evaluation.judges.JUDGES": (judge.kind,)} | _scorers([getattr(judge, "scorer", None)])


ALTERNATIVES = {
    "data": _data,
    "preferences": _preferences,
    "reference": _reference,
    "oracle_pairs": _reference,
    "score_tokens": _reference,
    "selection": _selection,
    "train": _train,
    "sample_round": _sample_round,
    "finish_rounds": _reference,
    "train_on_policy": _train_on_policy,
    "evaluate": _evaluate,
    "wins": _wins,
}
"""Stage, which is also the name of its script -> (task, run, kind of a reference cache) -> the rows that a job uses."""
