"""What a reader has to know first: what was compared on what, the best method, and what cannot be told from it."""

from collections.abc import Mapping
from typing import Any

from sparsepo.report.html.task_results import TaskResults
from sparsepo.report.tables.caption import variant_word
from sparsepo.report.tables.comparison import Comparison
from sparsepo.report.tables.systems import ColumnKey, System


def what_was_compared(task: TaskResults) -> str:
    """One sentence: methods, settings, seeds, model, data, reward."""
    config, prompt_ids = task.config, task.scores["sft"]["prompt_ids"]
    settings = {run.rsplit("/", 1)[0] for run in task.runs}
    counts = {
        "method": len({run.split("/")[0] for run in task.runs}),
        "setting": len(settings),
        "seed": len(config["seeds"]),
        "test prompt": len(set(prompt_ids)),
        "response": len(prompt_ids),
    }
    *grid, prompts, responses = (f"{count:,} {noun}{'s' * (count != 1)}" for noun, count in counts.items())
    scorer = config["evaluation"]["scorer"]
    reward = f"; the reward is {_scorer_name(scorer)}" if scorer else ""
    return (
        f"{', '.join(grid)} against the model they start from ({_model_name(config['model'])}), "
        f"on '{config['data']['source']}' data: {prompts}, {responses} of each run{reward}."
    )


def best_method(comparison: Comparison) -> str:
    """The method of the best mean on test data, with its interval; "" where no metric ranks methods.

    The best of m means is likely a lucky one, so its interval has the level 1 - 0.05 / m (Bonferroni), which holds for
    whichever of them is the best.
    """
    column = ranked_column(comparison)
    if column is None:
        return ""
    variant, metric = column[0], comparison.metric(column[1])
    best = best_system(comparison, column)
    number = sum(column in system.estimates for system in comparison.systems)
    found = best.estimates[column].interval_at(1 - 0.05 / number)
    mean, low, high = (f"{value:z.{metric.digits}f}" for value in vars(found).values())
    where = f" at {variant_word([variant])} {variant}" if variant else ""
    setting = f", {best.params}" if best.params != "-" else ""
    best_of = f" (95% for the best of {number})" if number > 1 else ""
    interval = "" if low == "nan" else f" [{low}, {high}]{best_of}"
    return f"{best.label}{setting}: {metric.label}{where} {mean}{interval}"


def indistinguishable(comparison: Comparison) -> list[str]:
    """Which systems the tests cannot tell from the best; [] where they can tell all, or test none."""
    column = ranked_column(comparison)
    if column is None:
        return []
    best = best_system(comparison, column)
    own = [system.label for system in comparison.systems]
    labels = {s.name: f"{s.label} ({s.params})" if own.count(s.label) > 1 else s.label for s in comparison.systems}
    pairs = [pair for pair in comparison.differences[column] if best.name in (pair.a, pair.b) and pair.is_tested]
    alike = [labels[pair.b if pair.a == best.name else pair.a] for pair in pairs if not pair.is_significant]
    if not alike:
        return []
    others = "no other system" if len(alike) == len(pairs) else f"{len(alike)} of {len(pairs)} other systems"
    told = "can be told from it" if len(alike) == len(pairs) else f"cannot be told from it ({', '.join(alike)})"
    metric = comparison.metric(column[1]).label
    return [f"{labels[best.name]} has the best {metric}, but {others} {told} on these prompts (tests, Holm)."]


def ranked_column(comparison: Comparison) -> ColumnKey | None:
    """The column that chose the settings, at its first variant; else the first of a metric that has a better end."""
    ranked = [column for column in comparison.columns if comparison.metric(column[1]).higher_is_better is not None]
    return next((column for column in ranked if column[1] == comparison.select), ranked[0] if ranked else None)


def best_system(comparison: Comparison, column: ColumnKey) -> System:
    """The first system of the best mean among those that have an estimate in this column."""
    sign = 1 if comparison.metric(column[1]).higher_is_better else -1
    measured = [system for system in comparison.systems if column in system.estimates]
    return max(measured, key=lambda system: sign * system.estimates[column].interval.mean)


def _scorer_name(scorer: Mapping[str, Any]) -> str:
    source = [str(scorer[name]) for name in ("model", "id", "path") if scorer.get(name)]
    names = {"vader": "VADER's", "tfidf": "a classifier fitted here"}
    return names.get(scorer["kind"]) or " ".join([scorer["kind"], *source])


def _model_name(model: Mapping[str, Any]) -> str:
    if model["source"] == "scratch":
        return f"a {model['config'].get('model_type', 'model')} made from scratch"
    return str(next(model[name] for name in ("id", "package", "path") if model.get(name)))
