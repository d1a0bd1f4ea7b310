import subprocess
import sys

import altair as alt
import pandas as pd
import pytest

from sparsepo.methods.registry import METHODS
from sparsepo.report.figures.style import PALETTE, method_style, save_figure, setting_colours

STYLES = {method: method_style(method) for method in ("sft", *METHODS)}


def _chart():
    return alt.Chart(pd.DataFrame({"x": [1, 2]})).mark_point(clip=True).encode(x="x:Q")


def test_no_two_methods_share_a_colour_or_a_marker_and_dash():
    assert len({style.colour for style in STYLES.values()}) == len(STYLES)
    assert len({(style.marker, style.dash) for style in STYLES.values()}) == len(STYLES)


def test_a_further_method_needs_no_style_of_its_own(monkeypatch):
    monkeypatch.setitem(METHODS, "novel", METHODS["dpo"])
    assert method_style("novel").colour == PALETTE[len(METHODS) - 1]
    assert method_style("novel") not in STYLES.values()
    assert {method: method_style(method) for method in STYLES} == STYLES


def test_no_two_methods_of_the_paper_share_a_marker():
    paper = ("sft", "dpo", "tdpo1", "tdpo2", "simpo", "dpop", "mapo", "sparsepo_common", "sparsepo_independent")
    assert len({STYLES[method].marker for method in paper}) == len(paper)


def test_a_method_of_the_user_has_one_style_in_every_process():
    code = "from sparsepo.report.figures.style import method_style; print(method_style('novel'))"
    printed = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    }
    assert printed == {str(method_style("novel"))}
    assert method_style("novel").colour not in {style.colour for style in STYLES.values()}


@pytest.mark.parametrize("count", [0, 1, 2, 7, 30])
def test_settings_have_colours_of_their_own(count):
    assert len(set(setting_colours(count))) == count


@pytest.mark.parametrize("name", ["frontier", "frontier.svg", "frontier.png"])
def test_save_writes_an_svg_and_a_png_and_nothing_else(tmp_path, name):
    save_figure(_chart(), tmp_path / "new" / name)
    written = sorted(path.name for path in (tmp_path / "new").iterdir() if path.is_file())
    assert written == ["frontier.png", "frontier.svg"]


def test_save_takes_the_dot_of_a_beta_for_a_part_of_the_name(tmp_path):
    save_figure(_chart(), tmp_path / "beta~0.1")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["beta~0.1.png", "beta~0.1.svg"]


def test_a_figure_that_fails_to_draw_leaves_the_old_file_and_no_other(tmp_path):
    (tmp_path / "frontier.svg").write_text("old")
    broken = _chart().transform_filter("datum.x >")
    with pytest.raises(ValueError, match="conversion failed"):
        save_figure(broken, tmp_path / "frontier")
    assert [path.name for path in tmp_path.iterdir()] == ["frontier.svg"]
    assert (tmp_path / "frontier.svg").read_text() == "old"


def test_a_figure_of_many_rows_is_drawn(tmp_path):
    save_figure(alt.Chart(pd.DataFrame({"x": range(6000)})).mark_point().encode(x="x:Q"), tmp_path / "many")
    assert (tmp_path / "many.svg").stat().st_size > 100_000


def test_the_report_imports_neither_torch_nor_transformers():
    names = [
        "figures.frontier",
        "figures.dynamics",
        "figures.token_heatmap",
        "tables.cells",
        "tables.grid",
        "html.build",
    ]
    imports = "; ".join(f"import sparsepo.report.{name}" for name in names)
    code = f"import sys; {imports}; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
