"""The writer of tables, and the comparison as it prints it: pinned on small tables made by hand."""

import math
import re
import shutil
import subprocess

import pandas as pd
import pytest

from sparsepo.report.tables.caption import variant_word
from sparsepo.report.tables.cells import comparison_table, ranks
from sparsepo.report.tables.comparison import compare
from sparsepo.report.tables.latex_text import escaped_latex
from sparsepo.report.tables.published import Published
from sparsepo.report.tables.render import STAR, Block, Cell, Table, to_latex, to_markdown, write_csv

ENGINES = [engine for engine in ("pdflatex", "xelatex", "lualatex") if shutil.which(engine)]

BY_REWARD = {"select": "reward", "selected_on_test": False, "baseline": None, "rows": "methods"}
LABELS = {"sft": "SFT", "dpo": "DPO", "ipo": "IPO", "simpo": "SimPO"}


def _file(method, variants):
    """Variant -> metric -> values, one a prompt."""
    measured = {
        variant: {name: {"values": values, "groups": list(range(len(values)))} for name, values in found.items()}
        for variant, found in variants.items()
    }
    head = {"task": "t", "run": method, "method": method, "label": LABELS[method], "params": {}, "seed": 0}
    return head | {"measure": "scores", "splits": {"test": measured}, "notes": []}


def _tables(variants_of, paper=None):
    files = [_file(method, variants) for method, variants in variants_of.items()]
    comparison = compare(files, BY_REWARD, Published(paper or {}, "a paper"))
    table = comparison_table(comparison, [], "PROVENANCE")
    return to_markdown(Table(table.blocks, "CAPTION", [], table.provenance))


def _flat(**metrics):
    """Twelve equal prompts: without spread there is no interval, and what differs does so by the sign test."""
    return {"": {name: [value] * 12 for name, value in metrics.items()}}


def test_best_is_bold_second_underlined_and_what_differs_from_the_baseline_is_marked():
    text = _tables({
        "sft": _flat(reward=0.25, kl=0.0),
        "dpo": _flat(reward=0.5, kl=3.0),
        "ipo": _flat(reward=0.75, kl=9.0),
        "simpo": {"": {"reward": [0.0, 1.2] * 6, "kl": [1.0, 2.0] * 6}},
    })  # fmt: skip
    assert text.splitlines()[:6] == [
        "| method | setting | seeds | reward | KL |",
        "| :-- | :-- | --: | --: | --: |",
        "| SFT | - | 1 | 0.250‡ | 0.00 |",
        "| DPO | - | 1 | 0.500 | 3.00 |",
        "| IPO | - | 1 | **0.750**† | 9.00 |",
        "| SimPO | - | 1 | <u>0.600 ± 0.398</u> | 1.50 ± 0.33 |",
    ]
    assert text.endswith("\n\nCAPTION\n\nPROVENANCE\n")


def test_a_lower_self_bleu_is_better_and_marked_so():
    text = _tables({"dpo": _flat(self_bleu=30.0), "ipo": _flat(self_bleu=20.0), "sft": _flat(self_bleu=40.0)})
    assert re.findall(r"\| (\S+) \|\n", text)[2:] == ["40.00‡", "<u>30.00</u>", "**20.00**†"]


def test_a_mark_is_corrected_for_the_number_of_pairs_and_needs_ten_prompts():
    """The gain over DPO has p = 0.03 alone. The bootstrap of two prompts marked any gain of one sign."""
    base = [0.1 * at for at in range(12)]
    gained = [value + 1.0 + 1.414 * (-1) ** at for at, value in enumerate(base)]
    two, three = {"dpo": base, "ipo": gained}, {"dpo": base, "ipo": gained, "simpo": base}
    marks = [_tables({name: {"": {"reward": values}} for name, values in rows.items()}) for rows in (two, three)]
    assert ["†" in text for text in marks] == [True, False]
    assert "†" not in _tables({"dpo": {"": {"reward": [0.0, 0.1]}}, "ipo": {"": {"reward": [1.0, 1.2]}}})


def test_settings_as_rows_are_marked_against_the_first_of_the_baseline():
    """Names of settings were compared with names of methods, so that no mark ever appeared."""
    values = {"0.1": [0.1 * at for at in range(12)], "0.5": [5 + 0.1 * at for at in range(12)]}
    files = [
        _file("dpo", {"": {"reward": own}}) | {"params": {"beta": beta}, "run": beta} for beta, own in values.items()
    ]
    comparison = compare(files, BY_REWARD | {"rows": "settings"}, Published({}, ""))
    assert to_markdown(comparison_table(comparison, [], "")).count("†") == 2  # in the table and in its caption


@pytest.mark.parametrize(
    ("shown", "higher", "expected"),
    [
        ([0.1, 0.3, 0.2, 0.0], True, [0, 1, 2, 0]),
        ([0.3, 0.3, 0.2, 0.2, 0.1], True, [1, 1, 2, 2, 0]),
        ([0.3, 0.1, 0.2], False, [0, 1, 2]),
        ([0.3, 0.1], None, [0, 0]),
        ([0.3, 0.3], True, [0, 0]),
        ([math.nan, 0.3, 0.1], True, [0, 1, 2]),
        ([0.3], True, [0]),
        ([-0.2, -0.1], True, [2, 1]),
        ([], True, []),
    ],
)
def test_ranks_by_hand(shown, higher, expected):
    assert ranks(shown, higher) == expected


def test_numbers_that_are_printed_alike_share_their_rank():
    text = _tables({"sft": _flat(reward=0.1), "dpo": _flat(reward=0.70001), "ipo": _flat(reward=0.70002)})
    assert text.count("**0.700**") == 2 and text.count("<u>0.100") == 1


def test_each_temperature_has_its_own_best_in_a_table_of_its_own_shape():
    text = _tables({
        "sft": {"": {"reward": [1.0]}, "0.25": {"win_rate": [0.5]}, "1": {"win_rate": [0.4]}},
        "dpo": {"": {"reward": [2.0]}, "0.25": {"win_rate": [0.3]}, "1": {"win_rate": [0.6]}},
    })  # fmt: skip
    assert text.split("\n\n")[:2] == [
        "| method | setting | seeds | reward |\n| :-- | :-- | --: | --: |\n"
        "| SFT | - | 1 | <u>1.000</u> |\n| DPO | - | 1 | **2.000** |",
        "| temperature | method | setting | seeds | win rate % |\n| :-- | :-- | :-- | --: | --: |\n"
        "| 0.25 | SFT | - | 1 | **50.0** |\n| 0.25 | DPO | - | 1 | <u>30.0</u> |\n"
        "| 1 | SFT | - | 1 | <u>40.0</u> |\n| 1 | DPO | - | 1 | **60.0** |",
    ]


def test_a_metric_that_one_variant_lacks_is_a_dash_there():
    text = _tables({
        "sft": {"0.25": {"win_rate": [0.5]}, "1": {"win_rate": [0.4], "rouge_l": [0.25]}},
        "dpo": {"0.25": {"win_rate": [0.3]}, "1": {"win_rate": [0.6], "rouge_l": [0.5]}},
    })  # fmt: skip
    assert "| 0.25 | SFT | - | 1 | **50.0** | - |" in text and "| 1 | DPO | - | 1 | **60.0** | **0.500** |" in text


def test_variants_that_are_no_numbers_are_suites():
    assert variant_word(["0.25", "1"]) == "temperature"
    assert variant_word(["mbpp", "humaneval"]) == "suite"


def test_a_missing_figure_is_a_dash_and_never_zero():
    text = _tables({"sft": _flat(reward=0.5), "dpo": _flat(kl=1.0)})
    assert "| SFT | - | 1 | 0.500 | - |" in text
    assert "| DPO | - | 1 | - | 1.00 |" in text


def test_the_papers_figures_stand_beside_ours_and_are_never_bold():
    paper = {"sft": {"bbh": 99.0}, "ipo": {"bbh": 98.0}}
    text = _tables({"sft": {"": {"bbh": [2.0], "avg": [1.0]}}, "dpo": {"": {"bbh": [3.0], "avg": [1.0]}}}, paper)
    assert text.splitlines()[:4] == [
        "| method | setting | seeds | BBH | paper | AVG |",
        "| :-- | :-- | --: | --: | --: | --: |",
        "| SFT | - | 1 | <u>2.00</u> | 99.00 | 1.00 |",
        "| DPO | - | 1 | **3.00** | - | 1.00 |",
    ]


def _block(**changes):
    rows = [[Cell("a_b & {c} 50% #1"), Cell("-1.50 ± 0.10", 1, "†")], [Cell("m_u"), Cell("-", 0, "‡")]]
    return Block(**{"heads": ["method", "pass@1 %"], "text_columns": 1, "parts": [rows[:1], rows[1:]]} | changes)


def test_latex_is_pinned():
    caption, notes = "± of 95%; † / ‡: better / worse.", ["a note of x_y", "another"]
    text = to_latex(Table([_block()], caption, notes, "config a\n50%"))
    assert text.splitlines() == [
        "% config a 50%",
        r"% \usepackage{booktabs,graphicx}",
        r"\begin{table*}[t]",
        r"\centering",
        r"\caption{$\pm$ of 95\%; $^{\dagger}$ / $^{\ddagger}$: better / worse.}",
        r"\resizebox{\textwidth}{!}{%",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"method & pass@1 \% \\",
        r"\midrule",
        r"a\_b \& \{c\} 50\% \#1 & \textbf{$-$1.50 $\pm$ 0.10}$^{\dagger}$ \\",
        r"\midrule",
        r"$m_u$ & -$^{\ddagger}$ \\",
        r"\bottomrule",
        r"\end{tabular}}",
        r"\par\smallskip\raggedright\footnotesize",
        r"a note of x\_y \par another",
        r"\end{table*}",
    ]


ANY_TEXT = "[x] *a* 50% of $1 & #2 ~^\\ {β=0.1} Δ λ ω Ο ς é ñ Å ő İ ł ß “q” 中文 👍 \x00 a\n\nb \t m_u -1"


def test_latex_of_any_text_is_ascii_with_greek_in_maths_and_code_points_for_what_needs_a_package():
    assert escaped_latex("effective β, Δ, λ, Σ") == r"effective $\beta$, $\Delta$, $\lambda$, $\Sigma$"
    assert escaped_latex("é ñ ß Å ő") == r"\'{e} \~{n} \ss{} \r{A} \H{o}"
    assert escaped_latex("中 👍\x00") == "{[}U+4E2D] {[}U+1F44D]{[}U+0000]"
    assert escaped_latex("[1] *") == "{[}1] {*}"
    assert escaped_latex("a\n\nb") == "a b"
    assert escaped_latex(ANY_TEXT).isascii() and escaped_latex(ANY_TEXT).isprintable()


@pytest.mark.skipif(not ENGINES, reason="no TeX engine is installed (pdflatex, xelatex, lualatex)")
@pytest.mark.parametrize("engine", ENGINES)
def test_latex_of_any_text_compiles(tmp_path, engine):
    cells = [[Cell(ANY_TEXT), Cell("[0.5]", 1, "†")], [Cell("*"), Cell("-1", 2, STAR)]]
    table = to_latex(Table([Block([ANY_TEXT, "β"], 1, [cells])], ANY_TEXT, [ANY_TEXT], "config a"))
    packages = r"\documentclass{article}\usepackage{booktabs,graphicx}"
    (tmp_path / "a.tex").write_text(packages + r"\begin{document}" + "\n" + table + r"\end{document}", encoding="utf-8")
    command = [engine, "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_csv_opens_in_a_spreadsheet_where_it_is_marked(tmp_path):
    frame = pd.DataFrame({"method": ["β 中"]})
    write_csv(frame, tmp_path / "plain.csv")
    write_csv(frame, tmp_path / "marked.csv", bom=True)
    assert (tmp_path / "marked.csv").read_bytes() == b"\xef\xbb\xbf" + (tmp_path / "plain.csv").read_bytes()
    assert pd.read_csv(tmp_path / "marked.csv").equals(frame)


def test_latex_of_a_whole_comparison_balances_and_is_ascii():
    variants = {"": {"reward": [0.1, 0.2], "zeros_m_u": [0.5, 0.5]}, "0.25": {"win_rate": [0.5, 1.0]}}
    comparison = compare([_file("sft", variants), _file("dpo", variants)], BY_REWARD, Published({}, ""))
    blocks = comparison_table(comparison, [], "config").blocks
    text = to_latex(Table(blocks, "± † ‡ {50%} & m_u", ["x_1 #2 ~ ^ \\"], "config"))
    assert text.isascii()
    plain = re.sub(r"\\[{}%&#$_]", "", re.sub(r"^%.*\n", "", text, flags=re.M).replace("{%\n", "{\n"))
    depths = [plain[:end].count("{") - plain[:end].count("}") for end in range(len(plain) + 1)]
    assert min(depths) == 0 and depths[-1] == 0
    assert plain.count("$") % 2 == 0 and "%" not in plain and "#" not in plain
    for environment in re.findall(r"\\begin\{(\S+?)\}", plain):
        assert plain.count(rf"\begin{{{environment}}}") == plain.count(rf"\end{{{environment}}}")
    for table in re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", plain, flags=re.S):
        wide = len(re.search(r"\{tabular\}\{([lr]+)\}", table).group(1))
        rows = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert {row.count("&") + 1 for row in rows} == {wide}


def test_a_star_is_escaped_in_markdown_and_set_above_in_latex():
    table = Table([_block(parts=[[[Cell("a"), Cell("0.5", 1, STAR)]]])], "", [], "p")
    assert r"| a | **0.5**\* |" in to_markdown(table) and r"a & \textbf{0.5}$^{*}$ \\" in to_latex(table)


def test_notes_stay_out_of_latex_where_they_are_not_for_print():
    table = Table([_block()], "caption", ["a note"], "p", "Read with care:", latex_notes=False)
    assert "Read with care:\n\n- a note\n" in to_markdown(table) and "a note" not in to_latex(table)


def test_markdown_escapes_what_would_break_a_table():
    text = to_markdown(Table([_block(heads=["a|b", "c"])], "caption *", ["note <x>"], "p"))
    assert text.splitlines()[0] == r"| a\|b | c |"
    assert r"caption \*" in text and r"- note \<x>" in text
