"""The writer of every table: Markdown, LaTeX (booktabs) and CSV from the same cells."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sparsepo.data.records import write_text
from sparsepo.report.tables.latex_text import escaped_latex

BETTER, WORSE, STAR = "†", "‡", "*"


@dataclass(frozen=True)
class Cell:
    """A printed cell. `rank`: 1 is the best of its column, 2 the second, 0 neither; `mark`: result of a test, or ""."""

    text: str
    rank: int = 0
    mark: str = ""


@dataclass(frozen=True)
class Block:
    """Rows under one header. The first `text_columns` are aligned left; a rule separates the `parts`."""

    heads: Sequence[str]
    text_columns: int
    parts: Sequence[Sequence[Sequence[Cell]]]


@dataclass(frozen=True)
class Table:
    """A printed table: its blocks below each other, then the caption and the notes.

    `provenance` says what made the numbers. The caption of LaTeX stands above, and notes only where `latex_notes`.
    """

    blocks: Sequence[Block]
    caption: str
    notes: Sequence[str]
    provenance: str
    notes_heading: str = "Notes:"
    latex_notes: bool = True


def write_table(
    table: Table, frame: pd.DataFrame, *, csv: Path, markdown: Path, latex: Path, csv_bom: bool = False
) -> None:
    """Write the printed table as Markdown and LaTeX, and `frame`, the same numbers, as CSV."""
    write_csv(frame, csv, csv_bom)
    write_text(markdown, to_markdown(table))
    write_text(latex, to_latex(table))


def write_csv(frame: pd.DataFrame, path: str | Path, bom: bool = False) -> None:
    """Write a frame with six significant digits and no comment lines; `bom` marks it as UTF-8 for spreadsheets."""
    write_text(path, "\ufeff" * bom + frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))


def format_number(value: float | None, digits: int) -> str:
    """A number with so many decimals and no negative zero; `-` for None and nan."""
    return "-" if value is None or math.isnan(value) else f"{value:z.{digits}f}"


def mean_with_interval(mean: float, low: float, high: float, digits: int) -> str:
    """The mean, and ± the longer arm of its interval where there is one."""
    if math.isnan(low):
        return format_number(mean, digits)
    return f"{format_number(mean, digits)} ± {format_number(max(high - mean, mean - low), digits)}"


def to_markdown(table: Table) -> str:
    """Each block, the caption, the notes as a list, the provenance line. Underlining is HTML's `<u>`."""
    parts = ["\n".join(_markdown_lines(block)) for block in table.blocks] + [escaped_markdown(table.caption)]
    if table.notes:
        parts += [table.notes_heading, "\n".join(f"- {escaped_markdown(note)}" for note in table.notes)]
    return "\n\n".join([*parts, table.provenance]) + "\n"


def to_latex(table: Table) -> str:
    """One `table*`, each block scaled to the text width, the notes below; needs `booktabs` and `graphicx`."""
    notes = [r"\par\smallskip\raggedright\footnotesize", r" \par ".join(escaped_latex(note) for note in table.notes)]
    return "\n".join([
        f"% {' '.join(table.provenance.split())}",
        r"% \usepackage{booktabs,graphicx}",
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{escaped_latex(table.caption)}}}",
        "\n\\par\\medskip\n".join("\n".join(_latex_lines(block)) for block in table.blocks),
        *(notes if table.notes and table.latex_notes else ()),
        r"\end{table*}",
        "",
    ])  # fmt: skip


def markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def escaped_markdown(text: str) -> str:
    return re.sub(r"([|*<])", r"\\\1", text)


def _markdown_lines(block: Block) -> list[str]:
    alignment = [":--" if place < block.text_columns else "--:" for place in range(len(block.heads))]
    templates = {0: "{}{}", 1: "**{}**{}", 2: "<u>{}</u>{}"}
    rows = [
        [templates[cell.rank].format(escaped_markdown(cell.text), escaped_markdown(cell.mark)) for cell in row]
        for part in block.parts
        for row in part
    ]
    return [markdown_row(row) for row in ([escaped_markdown(head) for head in block.heads], alignment, *rows)]


def _latex_lines(block: Block) -> list[str]:
    heads = " & ".join(escaped_latex(head) for head in block.heads) + r" \\"
    columns = "l" * block.text_columns + "r" * (len(block.heads) - block.text_columns)
    lines = [r"\resizebox{\textwidth}{!}{%", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", heads]
    for part in block.parts:
        lines += [r"\midrule", *(" & ".join(map(_latex_cell, row)) + r" \\" for row in part)]
    return [*lines, r"\bottomrule", r"\end{tabular}}"]


def _latex_cell(cell: Cell) -> str:
    template = {0: "%s", 1: r"\textbf{%s}", 2: r"\underline{%s}"}[cell.rank]
    return template % escaped_latex(cell.text) + ("$^{*}$" if cell.mark == STAR else escaped_latex(cell.mark))
