"""What a reader has to know first: what was compared on what, which method is best, what a reviewer would object."""

from collections.abc import Mapping
from typing import Any

from sparsepo.report.html.gather import TaskResults
from sparsepo.report.tables.cells import variant_word
from sparsepo.report.tables.metrics import metric_of
from sparsepo.report.tables.systems import Column, Comparison, System


def what(task: TaskResults) -> str:
    """One sentence: methods, settings, seeds, model, data, reward."""
    config = task.config
    points = {run.rsplit("/", 1)[0] for run in task.runs}
    methods, seeds = len({run.split("/")[0] for run in task.runs}), len(config["seeds"])
    counted = [_many(methods, "method"), _many(len(points), "setting"), _many(seeds, "seed")]
    score = task.scores["sft"]
    places = score["prompt_ids"]
    prompts = f"{_many(len(set(places)), 'test prompt')}, {_many(len(places), 'response')} of each run"
    scorer = config["evaluation"]["scorer"]
    reward = f"; the reward is {_kind(scorer)}" if scorer else ""
    return (
        f"{', '.join(counted)} against the model they start from ({_model(config['model'])}), "
        f"on '{config['data']['source']}' data: {prompts}{reward}."
    )


def best(made: Comparison) -> str:
    """The method of the best figure on test data, with its interval; empty where nothing ranks methods."""
    column = ranked_column(made)
    if column is None:
        return ""
    variant, metric = column[0], metric_of(column[1])
    first = best_system(made, column)
    mean, low, high = (f"{value:z.{metric.digits}f}" for value in vars(first.figures[column].interval).values())
    where = f" at {variant_word([variant])} {variant}" if variant else ""
    setting = f", {first.params}" if first.params != "-" else ""
    interval = "" if low == "nan" else f" [{low}, {high}]"
    return f"{first.label}{setting}: {metric.label}{where} {mean}{interval}"


def overlap(made: Comparison) -> list[str]:
    """Which systems the tests cannot tell from the best; nothing where they can tell all, or test none."""
    column = ranked_column(made)
    if column is None:
        return []
    first = best_system(made, column)
    said = _names(made)
    pairs = [pair for pair in made.differences[column] if first.name in (pair.a, pair.b) and pair.is_tested]
    alike = [said[pair.b if pair.a == first.name else pair.a] for pair in pairs if not pair.is_significant]
    if not alike:
        return []
    others = "no other system" if len(alike) == len(pairs) else f"{len(alike)} of {len(pairs)} other systems"
    told = "can be told from it" if len(alike) == len(pairs) else f"cannot be told from it ({', '.join(alike)})"
    label = metric_of(column[1]).label
    return [f"{said[first.name]} has the best {label}, but {others} {told} on these prompts (permutation test, Holm)."]


def _names(made: Comparison) -> dict[str, str]:
    """System -> its label, with its setting where several are of one method."""
    labels = [system.label for system in made.systems]
    shared = {label for label in labels if labels.count(label) > 1}
    return {s.name: f"{s.label} ({s.params})" if s.label in shared else s.label for s in made.systems}


def ranked_column(made: Comparison) -> Column | None:
    """The column that chose the points, at its first variant; else the first that has a better end."""
    ranked = [column for column in made.columns if metric_of(column[1]).higher_is_better is not None]
    return next((column for column in ranked if column[1] == made.select), ranked[0] if ranked else None)


def best_system(made: Comparison, column: Column) -> System:
    """Of those that have a figure there, the first of the best mean."""
    sign = 1 if metric_of(column[1]).higher_is_better else -1
    there = [system for system in made.systems if column in system.figures]
    return max(there, key=lambda system: sign * system.figures[column].interval.mean)


def _many(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' * (count != 1)}"


def _kind(scorer: Mapping[str, Any]) -> str:
    named = {name: scorer[name] for name in ("model", "id", "path") if scorer.get(name)}
    return {"vader": "VADER's", "tfidf": "a classifier fitted here"}.get(scorer["kind"]) or " ".join(
        [scorer["kind"], *map(str, named.values())]
    )


def _model(model: Mapping[str, Any]) -> str:
    if model["source"] == "scratch":
        return f"a {model['config'].get('model_type', 'model')} made from scratch"
    return str(next(model[name] for name in ("id", "package", "path") if model.get(name)))
