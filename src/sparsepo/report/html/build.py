"""Putting the page together: everything it shows, from the results of the tasks to one file of HTML."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from sparsepo.data.records import write_text
from sparsepo.evaluation.tfidf import describe_fit
from sparsepo.report.figures.style import method_style
from sparsepo.report.frontier_score import frontier_scores
from sparsepo.report.html import head
from sparsepo.report.html.charts import (
    DARK,
    KLS,
    bounds,
    dynamics_figures,
    endings,
    frames,
    frontier_figure,
)
from sparsepo.report.html.gather import TaskResults
from sparsepo.report.html.pack import packed
from sparsepo.report.html.quantities import QUANTITIES
from sparsepo.report.html.run_rows import details, run_row
from sparsepo.report.html.samples import KINDS, answers_of
from sparsepo.report.html.tokens import QUANTITIES as TOKEN_QUANTITIES
from sparsepo.report.html.tokens import pairs_of, top_tokens, values_of
from sparsepo.report.run_names import params_text, parse_run
from sparsepo.report.tables.caption import caption, findings
from sparsepo.report.tables.cells import blocks
from sparsepo.report.tables.comparison import comparison
from sparsepo.report.tables.grid import main_table, reading
from sparsepo.report.tables.published import published

SCRIPTS = ("core", "charts", "tokens", "samples", "runs")
GLYPHS = {
    "*": "★", "o": "●", "<": "◀", ">": "▶", "h": "⬢", "p": "⬟", "s": "■", "d": "♦", "^": "▲", "v": "▼", "D": "◆",
    "P": "✚", "X": "✖", "8": "⯃", "H": "⬣",
}  # fmt: skip
"""Markers of the figures as letters, for the buttons that name methods."""


def write_page(name: str, version: str, tasks: Sequence[TaskResults], out: Path) -> None:
    """Write the page of these tasks, whole or not at all; `name` is the config's, `version` the package's."""
    loader = PackageLoader("sparsepo.report.html")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    folder = Path(__file__).parent / "static"
    text = made.get_template("page.html.j2").render(
        name=name,
        version=version,
        tasks=[task_view(task) for task in tasks],
        style=(folder / "page.css").read_text(),
        scripts=[(folder / f"{script}.js").read_text() for script in SCRIPTS],
        plotly=get_plotlyjs(),
        dark=DARK,
        bounds=bounds,
    )
    write_text(out, text)


def task_view(task: TaskResults) -> dict[str, Any]:
    """All that the template asks of a task; `blobs` are the parts that a browser opens when they are wanted."""
    scores = list(task.scores.values())
    compared = comparison(task.measures, task.compare, published(task.compare["published"]))
    table = main_table(scores)
    view = {
        "name": task.name,
        "what": head.what(task),
        "best": head.best(compared),
        "cautions": [*head.overlap(compared), *reading(table)],
        "blocks": blocks(compared),
        "caption": caption(compared),
        "notes": [*findings(compared), *map(describe_fit, task.fitted())],
        "provenance": task.compare["provenance"],
        "methods": _methods(scores),
        "blobs": {},
    }
    view |= _frontier(task, table, view["blobs"])
    for part in (_dynamics, _tokens, _samples, _runs):
        view |= part(task, view["blobs"])
    view["blobs"]["index"] = packed({name: view[name] for name in ("shown", "pairs", "kinds")})
    view["blobs"]["config"] = packed([["resolved", task.config]])
    return view


def _methods(scores: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    labels = {score["method"]: score["label"] for score in scores}
    looks = {method: method_style(method) for method in labels}
    return [
        {"name": method, "label": label, "glyph": GLYPHS[looks[method].marker]}
        | {"colour": looks[method].colour, "dark": DARK[looks[method].colour.upper()]}
        for method, label in labels.items()
    ]


def _frontier(task: TaskResults, table: pd.DataFrame, blobs: dict[str, str]) -> dict[str, Any]:
    scores = list(task.scores.values())
    if not scores[0]["reward"]:
        return {"frontier": None, "settings": [], "kls": {}}
    passed = {run: task.logged("frontier", run) for run in task.runs}
    for x in KLS:
        blobs[f"frontier/{x}"] = packed(frontier_figure(table, scores, passed, x))
    return {"frontier": frontier_scores(scores), "settings": table.to_dict("records"), "kls": KLS}


def _dynamics(task: TaskResults, blobs: dict[str, str]) -> dict[str, Any]:
    labels = {score["method"]: score["label"] for score in task.scores.values()}
    every = frames({run: task.logged("dynamics", run) for run in task.runs})
    found = dynamics_figures(every, labels)
    for name, panels in found.items():
        blobs[f"dynamics/{name}"] = packed(panels)
    there = [quantity for quantity in QUANTITIES if quantity.name in found]
    columns = [column for quantity in there for column in quantity.columns]
    return {"quantities": there, "ends": endings(every, labels), "end_columns": columns}


def _tokens(task: TaskResults, blobs: dict[str, str]) -> dict[str, Any]:
    runs, pairs, shown = task.first_seeds, None, []
    for run in runs:
        rows = task.rows("tokens", run)
        pairs = pairs or pairs_of(rows, len(runs))
        top = top_tokens(rows)
        blobs[f"tokens/{run}"] = packed({"pairs": values_of(rows, pairs, run), "top": top})
        shown.append({"run": run, "label": _run_label(task, run), "masks": bool(top)})
    return {
        "shown": shown,
        "pairs": pairs.shown,
        "pairs_whole": pairs.whole,
        "token_quantities": TOKEN_QUANTITIES,
    }


def _samples(task: TaskResults, blobs: dict[str, str]) -> dict[str, Any]:
    kinds = {}
    for kind in KINDS:
        answers = answers_of(task, kind)
        if answers is not None:
            kinds[kind] = {"prompts": answers.prompts, "columns": answers.columns, "whole": answers.whole}
            blobs |= {f"{kind}/{run}": packed(found) for run, found in answers.runs.items()}
    return {"kinds": kinds}


def _runs(task: TaskResults, blobs: dict[str, str]) -> dict[str, Any]:
    rows = []
    for run in task.all_runs:
        record = task.record(run)
        rows.append(run_row(task, run, record))
        blobs[f"run/{run}"] = packed(list(details(task, run, record).items()))
    return {"rows": rows}


def _run_label(task: TaskResults, run: str) -> str:
    """Method and setting; the seed too where there are several."""
    score, seed = task.scores[run], parse_run(run)[2]
    several = len(task.config["seeds"]) > 1 and seed is not None
    setting = params_text(score["params"]).strip("-")
    return " ".join(part for part in (score["label"], setting, f"seed {seed}" if several else "") if part)
