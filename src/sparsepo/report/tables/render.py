"""The comparison as text for people: Markdown and LaTeX (booktabs), from the same cells."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Column:
    """One printed column: of one frame column, or of two, shown as `a / b`.

    `interval` adds `±` the longer arm of the interval in the `_low` and `_high` columns.
    """

    head: str
    names: tuple[str, ...]
    digits: int = 0
    interval: bool = False


COLUMNS = (
    Column("method", ("label",)),
    Column("setting", ("params",)),
    Column("seeds", ("seeds",)),
    Column("reward", ("reward",), 3, interval=True),
    Column("KL sampled", ("kl_sample",), 2, interval=True),
    Column("KL exact", ("kl_exact",), 2, interval=True),
    Column("entropy", ("entropy",), 1, interval=True),
    Column("distinct-1 / 2", ("distinct_1", "distinct_2"), 3),
    Column("length", ("length",), 1),
    Column("Δ log p", ("logp_change_chosen", "logp_change_rejected"), 2),
    Column("AUC m_u", ("auc_m_u_chosen", "auc_m_u_rejected"), 2),
    Column("AUC m_d", ("auc_m_d_chosen", "auc_m_d_rejected"), 2),
    Column("AUC log-ratio", ("auc_abs_logratio_chosen", "auc_abs_logratio_rejected"), 2),
    Column("AUC oracle", ("auc_oracle_score_chosen", "auc_oracle_score_rejected"), 2),
    Column("AUC excess", ("auc_excess_chosen", "auc_excess_rejected"), 2),
    Column("zeros m_u / m_d", ("sparsity_m_u", "sparsity_m_d"), 3),
)
_TEXT_COLUMNS = 2

_ALWAYS = (
    "Means over samples stand ± the longer arm of their 95% bootstrap intervals, which resample the"
    " prompts of each seed whole.",
    "KL is to the reference, in nats a response: sampled is the mean of log π − log ref over"
    " sampled responses, exact sums KL(π‖ref) over their tokens.",
    "Entropy is the mean of −log π of a policy's own responses, in nats. Length is in tokens.",
)
_WHERE = {
    "Δ log p": "Δ log p is the mean change of the summed log-probability against the reference on"
    " validation pairs, chosen / rejected, in nats.",
    "AUC log-ratio": "AUC is the ROC area with which a quantity (mask m_u, mask m_d, |log-ratio|)"
    " ranks planted tokens above the others, chosen / rejected.",
    "AUC oracle": "AUC oracle is that of the oracle's score of a token, negated in rejected responses.",
    "AUC excess": "AUC excess is that of log oracle/π.",
    "zeros m_u / m_d": "Zeros is the share of mask weights that are exactly zero.",
}
_BEST = "Bold: the best mean reward."
_STAR = "Star: the whole reward interval lies above SFT's."


def markdown_table(frame: pd.DataFrame, findings: Sequence[str], provenance: str) -> str:
    """The table, what its columns mean, the findings as a list, the provenance line."""
    columns = _present(frame)
    aligned = [":--" if place < _TEXT_COLUMNS else "--:" for place in range(len(columns))]
    lines = [markdown_row(column.head for column in columns), markdown_row(aligned)]
    for _, row in frame.iterrows():
        cells = [escaped_markdown(_cell(row, column)) for column in columns]
        if _is_best(frame, row):
            cells[3] = f"**{cells[3]}**"
        if _is_starred(frame, row):
            cells[3] += r"\*"
        lines.append(markdown_row(cells))
    parts = ["\n".join(lines), escaped_markdown(" ".join(_notes(columns)))]
    if findings:
        parts += ["Read with care:", "\n".join(f"- {escaped_markdown(line)}" for line in findings)]
    return "\n\n".join([*parts, provenance]) + "\n"


def latex_table(frame: pd.DataFrame, provenance: str) -> str:
    """A `table*` scaled to the text width; needs `booktabs` and `graphicx`."""
    columns = _present(frame)
    lines = []
    for _, row in frame.iterrows():
        cells = [escaped_latex(_cell(row, column)) for column in columns]
        if _is_best(frame, row):
            cells[3] = rf"\textbf{{{cells[3]}}}"
        if _is_starred(frame, row):
            cells[3] += "$^{*}$"
        lines.append(" & ".join(cells) + r" \\")
        if row["method"] == "sft":
            lines.append(r"\midrule")
    comment = " ".join(provenance.split())
    return "\n".join([
        f"% {comment}",
        r"% \usepackage{booktabs,graphicx}",
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{escaped_latex(' '.join(_notes(columns)))}}}",
        r"\resizebox{\textwidth}{!}{%",
        rf"\begin{{tabular}}{{{'l' * _TEXT_COLUMNS}{'r' * (len(columns) - _TEXT_COLUMNS)}}}",
        r"\toprule",
        " & ".join(escaped_latex(column.head) for column in columns) + r" \\",
        r"\midrule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table*}",
        "",
    ])  # fmt: skip


def _present(frame: pd.DataFrame) -> list[Column]:
    return [column for column in COLUMNS if any(name in frame for name in column.names)]


def _notes(columns: Sequence[Column]) -> list[str]:
    heads = [column.head for column in columns]
    marks = (_BEST, _STAR) if "reward" in heads else ()
    return [*_ALWAYS, *(note for head, note in _WHERE.items() if head in heads), *marks]


def _is_best(frame: pd.DataFrame, row: pd.Series) -> bool:
    return "reward" in frame and bool(row["reward"] == frame["reward"].max())


def _is_starred(frame: pd.DataFrame, row: pd.Series) -> bool:
    sft = frame[frame["method"] == "sft"]
    return "reward" in frame and not sft.empty and bool(row["reward_low"] > sft["reward_high"].iloc[0])


def _cell(row: pd.Series, column: Column) -> str:
    shown = [_shown(row.get(name), column.digits) for name in column.names]
    if column.interval:
        name = column.names[0]
        arm = max(row[f"{name}_high"] - row[name], row[name] - row[f"{name}_low"])
        return shown[0] if math.isnan(arm) else f"{shown[0]} ± {_shown(arm, column.digits)}"
    return "-" if set(shown) == {"-"} else " / ".join(shown)


def _shown(value: object, digits: int) -> str:
    if isinstance(value, str):
        return value
    if value is None or math.isnan(value):
        return "-"
    return f"{value:z.{digits}f}"


def markdown_row(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def escaped_markdown(text: str) -> str:
    return re.sub(r"([|*<])", r"\\\1", text)


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"$|$", "<": "$<$", ">": "$>$",
    "±": r"$\pm$", "Δ": r"$\Delta$", "π": r"$\pi$", "−": "$-$", "‖": r"$\|$",
}  # fmt: skip


def escaped_latex(text: str) -> str:
    """Text that LaTeX sets as it reads: specials escaped, masks and minus signs in maths."""
    text = re.sub(r"(?<!\S)-(?=\d)", "−", text)
    text = "".join(_LATEX.get(letter, letter) for letter in text)
    return re.sub(r"\bm\\_([ud])\b", r"$m_\1$", text)


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
