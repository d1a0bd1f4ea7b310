import subprocess
import sys

import pytest

from sparsepo.methods.registry import METHODS
from sparsepo.report.figures.style import METHOD_STYLES, method_style, new_figure, save


def test_every_method_has_a_style_and_no_two_share_a_colour_or_marker_and_line():
    assert set(METHOD_STYLES) == {"sft", *METHODS}
    assert len({style.colour for style in METHOD_STYLES.values()}) == len(METHOD_STYLES)
    assert len({(style.marker, style.line) for style in METHOD_STYLES.values()}) == len(METHOD_STYLES)


def test_no_two_methods_of_the_paper_share_a_marker():
    paper = ("sft", "dpo", "tdpo1", "tdpo2", "simpo", "dpop", "mapo", "sparsepo_common", "sparsepo_independent")
    assert len({METHOD_STYLES[name].marker for name in paper}) == len(paper)


def test_an_unknown_method_has_one_style_in_every_process():
    code = "from sparsepo.report.figures.style import method_style; print(method_style('novel'))"
    printed = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    }
    assert printed == {str(method_style("novel"))}
    assert method_style("novel").colour not in {look.colour for look in METHOD_STYLES.values()}


@pytest.mark.parametrize("name", ["frontier", "frontier.svg", "frontier.png"])
def test_save_writes_an_svg_and_a_png_and_nothing_else(tmp_path, name):
    save(new_figure(1.0), tmp_path / "new" / name)
    written = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert written == ["frontier.png", "frontier.svg"]


def test_save_takes_the_dot_of_a_beta_for_a_part_of_the_name(tmp_path):
    save(new_figure(1.0), tmp_path / "beta~0.1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beta~0.1.png", "beta~0.1.svg"]


def test_a_figure_that_fails_to_draw_leaves_the_old_file_and_no_other(tmp_path):
    (tmp_path / "frontier.svg").write_text("old")
    figure = new_figure(1.0)
    figure.text(0.5, 0.5, "$\\broken{$")
    with pytest.raises(ValueError, match="broken"):
        save(figure, tmp_path / "frontier")
    assert [path.name for path in tmp_path.iterdir()] == ["frontier.svg"]
    assert (tmp_path / "frontier.svg").read_text() == "old"


def test_the_report_imports_neither_torch_nor_transformers():
    names = ["style", "tables", "frontier", "dynamics", "heatmaps"]
    imports = "; ".join(f"import sparsepo.report.{name}" for name in names)
    code = f"import sys; {imports}; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
