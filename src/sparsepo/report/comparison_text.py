"""The comparison as text for people: Markdown and LaTeX (booktabs), from the same cells."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparsepo.report.table_text import escaped_latex, escaped_markdown, markdown_row

BETTER, WORSE = "†", "‡"
_LATEX_MARKS = {BETTER: r"$^{\dagger}$", WORSE: r"$^{\ddagger}$", "": ""}


@dataclass(frozen=True)
class Cell:
    """A printed figure. `rank`: 1 is the best of its column, 2 the second, 0 neither; `mark`: of a test, or none."""

    text: str
    rank: int = 0
    mark: str = ""


@dataclass(frozen=True)
class Block:
    """Rows of one shape: `text_columns` of the `heads` are aligned left; rules stand between `parts` of the lines."""

    heads: Sequence[str]
    text_columns: int
    parts: Sequence[Sequence[Sequence[Cell]]]


def comparison_markdown(blocks: Sequence[Block], caption: str, notes: Sequence[str], provenance: str) -> str:
    """Each block as a table, the caption, the notes as a list, the provenance line. Underlining is HTML's `<u>`."""
    parts = ["\n".join(_markdown_lines(block)) for block in blocks] + [escaped_markdown(caption)]
    if notes:
        parts += ["Notes:", "\n".join(f"- {escaped_markdown(note)}" for note in notes)]
    return "\n\n".join([*parts, provenance]) + "\n"


def comparison_latex(blocks: Sequence[Block], caption: str, notes: Sequence[str], provenance: str) -> str:
    """One `table*`, each block scaled to the text width, the notes below; needs `booktabs` and `graphicx`."""
    said = [r"\par\smallskip\raggedright\footnotesize", r" \par ".join(_latex(note) for note in notes)]
    return "\n".join([
        f"% {' '.join(provenance.split())}",
        r"% \usepackage{booktabs,graphicx}",
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{_latex(caption)}}}",
        "\n\\par\\medskip\n".join("\n".join(_latex_lines(block)) for block in blocks),
        *(said if notes else ()),
        r"\end{table*}",
        "",
    ])  # fmt: skip


def _markdown_lines(block: Block) -> list[str]:
    aligned = [":--" if place < block.text_columns else "--:" for place in range(len(block.heads))]
    rows = [[_markdown_cell(cell) for cell in line] for part in block.parts for line in part]
    return [markdown_row(row) for row in ([escaped_markdown(head) for head in block.heads], aligned, *rows)]


def _markdown_cell(cell: Cell) -> str:
    shape = {0: "{}", 1: "**{}**", 2: "<u>{}</u>"}[cell.rank]
    return shape.format(escaped_markdown(cell.text)) + cell.mark


def _latex_lines(block: Block) -> list[str]:
    heads = " & ".join(_latex(head) for head in block.heads) + r" \\"
    columns = "l" * block.text_columns + "r" * (len(block.heads) - block.text_columns)
    opening = [r"\resizebox{\textwidth}{!}{%", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", heads]
    lines = []
    for part in block.parts:
        lines += [r"\midrule", *(" & ".join(map(_latex_cell, line)) + r" \\" for line in part)]
    return [*opening, *lines, r"\bottomrule", r"\end{tabular}}"]


def _latex_cell(cell: Cell) -> str:
    command = {0: "", 1: r"\textbf", 2: r"\underline"}[cell.rank]
    text = _latex(cell.text)
    return (f"{command}{{{text}}}" if command else text) + _LATEX_MARKS[cell.mark]


def _latex(text: str) -> str:
    text = escaped_latex(text)
    for mark in (BETTER, WORSE):
        text = text.replace(mark, _LATEX_MARKS[mark])
    return text
