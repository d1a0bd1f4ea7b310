"""Putting the page together: everything it shows, from the results of the tasks to one file of HTML."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined

from sparsepo.data.records import write_text
from sparsepo.evaluation.tfidf import describe_fit
from sparsepo.report.figures.curves import QUANTITIES, training_curves
from sparsepo.report.figures.frontier import KLS, frontier_plot, interval_text, pareto_plot
from sparsepo.report.figures.style import method_style
from sparsepo.report.frontier_score import frontier_scores
from sparsepo.report.html.charts import DARK, beta_specs, last_values, page_spec
from sparsepo.report.html.packing import pack
from sparsepo.report.html.run_rows import run_details, run_row
from sparsepo.report.html.samples import ANSWER_KINDS, find_answers
from sparsepo.report.html.summary import best_method, indistinguishable, what_was_compared
from sparsepo.report.html.task_results import TaskResults
from sparsepo.report.html.tokens import TOKEN_QUANTITIES, choose_pairs, top_tokens, values_by_pair
from sparsepo.report.run_names import params_text, parse_run
from sparsepo.report.tables.cautions import cautions
from sparsepo.report.tables.cells import comparison_table
from sparsepo.report.tables.comparison import compare
from sparsepo.report.tables.controls import control_cautions
from sparsepo.report.tables.grid import grid_frame
from sparsepo.report.tables.matched_kl import matched_kl_frame, matched_kl_table
from sparsepo.report.tables.planted_auc import auc_frame, auc_table
from sparsepo.report.tables.published import load_published

SCRIPTS = ("core", "charts", "tokens", "samples", "runs")
View = dict[str, Any]
"""Parts of what the template asks of a task."""


def write_page(name: str, version: str, tasks: Sequence[TaskResults], out: Path) -> None:
    """Write the page of these tasks, whole or not at all; `name` is the config's, `version` the package's."""
    loader = PackageLoader("sparsepo.report.html")
    jinja = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    folder = Path(__file__).parent / "static"
    text = jinja.get_template("page.html.j2").render(
        name=name,
        version=version,
        tasks=[task_view(task) for task in tasks],
        style=(folder / "page.css").read_text(encoding="utf-8"),
        scripts=[(folder / f"{script}.js").read_text(encoding="utf-8") for script in SCRIPTS],
        vega=vl_convert.javascript_bundle(),
        dark=DARK,
        interval_text=interval_text,
    )
    write_text(out, text)


def task_view(task: TaskResults) -> View:
    """All that the template asks of a task; `blobs` are the parts that a browser unpacks when they are needed."""
    scores = list(task.scores.values())
    comparison = compare(task.measures, task.compare, load_published(task.compare["published"]))
    frame = grid_frame(scores)
    view: View = {
        "name": task.name,
        "what": what_was_compared(task),
        "best": best_method(comparison),
        "cautions": [*indistinguishable(comparison), *control_cautions(scores), *cautions(frame)],
        "table": comparison_table(
            comparison, [describe_fit(report) for report in task.fitted()], task.compare["provenance"]
        ),
        "auc": auc_table(auc_frame(scores), task.compare["provenance"]) if task.has_planted_tokens else None,
        "methods": _methods(scores),
        "blobs": {},
    }
    view |= _frontier(task, frame, view["blobs"])
    for part in (_dynamics, _tokens, _samples, _runs):
        view |= part(task, view["blobs"])
    view["blobs"]["index"] = pack({name: view[name] for name in ("shown", "pairs", "kinds")})
    view["blobs"]["config"] = pack([["resolved", task.config]])
    return view


def _methods(scores: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    labels = {score["method"]: score["label"] for score in scores}
    return [
        {"name": method, "label": label, "marker": style.marker, "colour": style.colour, "dark": DARK[style.colour]}
        for method, label in labels.items()
        for style in [method_style(method)]
    ]


def _frontier(task: TaskResults, frame: pd.DataFrame, blobs: dict[str, str]) -> View:
    scores = list(task.scores.values())
    if not scores[0]["reward"]:
        return {"frontier": None, "matched_kl": None, "settings": [], "kls": {}}
    training_points = {run: task.logged("frontier", run) for run in task.runs}
    for x in KLS:
        blobs[f"frontier/{x}"] = pack(page_spec(frontier_plot(frame, scores, training_points, x).chart(scale=1.4), 420))
    axes = dict(KLS)
    if any(training_points.values()):
        axes["pareto"] = "exact KL of policies during training, lines: Pareto set"
        blobs["frontier/pareto"] = pack(page_spec(pareto_plot(scores, training_points).chart(scale=1.4), 420))
    return {
        "frontier": frontier_scores(scores),
        "matched_kl": matched_kl_table(matched_kl_frame(scores), task.compare["provenance"]),
        "settings": frame.to_dict("records"),
        "kls": axes,
    }


def _dynamics(task: TaskResults, blobs: dict[str, str]) -> View:
    labels = {score["method"]: score["label"] for score in task.scores.values()}
    curves = training_curves({run: task.logged("dynamics", run) for run in task.runs}, labels)
    logged = [quantity for quantity in QUANTITIES if quantity.name in curves]
    for quantity in logged:
        blobs[f"dynamics/{quantity.name}"] = pack(beta_specs(curves[quantity.name], labels, quantity))
    columns = [column for quantity in logged for column in quantity.columns.values()]
    return {"quantities": logged, "last_values": last_values(curves), "last_columns": columns}


def _tokens(task: TaskResults, blobs: dict[str, str]) -> View:
    runs, pairs, total, shown = task.first_seeds, [], 0, []
    for run in runs:
        rows = task.rows("tokens", run)
        if not pairs:
            pairs, total = choose_pairs(rows, len(runs)), len(rows)
        top = top_tokens(rows)
        blobs[f"tokens/{run}"] = pack({"pairs": values_by_pair(rows, pairs, total, run), "top": top})
        shown.append({"run": run, "label": _run_label(task, run), "masks": bool(top)})
    return {"shown": shown, "pairs": pairs, "pairs_total": total, "token_quantities": TOKEN_QUANTITIES}


def _samples(task: TaskResults, blobs: dict[str, str]) -> View:
    kinds = {}
    for kind in ANSWER_KINDS:
        answers = find_answers(task, kind)
        if answers is not None:
            kinds[kind] = {"prompts": answers.prompts, "columns": answers.columns, "total": answers.total}
            blobs |= {f"{kind}/{run}": pack(by_prompt) for run, by_prompt in answers.runs.items()}
    return {"kinds": kinds}


def _runs(task: TaskResults, blobs: dict[str, str]) -> View:
    rows = []
    for run in task.all_runs:
        record = task.record(run)
        rows.append(run_row(task, run, record))
        blobs[f"run/{run}"] = pack(list(run_details(task, run, record).items()))
    return {"rows": rows}


def _run_label(task: TaskResults, run: str) -> str:
    """Method and setting; the seed too where there are several."""
    score, seed = task.scores[run], parse_run(run)[2]
    several = len(task.config["seeds"]) > 1 and seed is not None
    setting = params_text(score["params"]).strip("-")
    return " ".join(part for part in (score["label"], setting, f"seed {seed}" if several else "") if part)
