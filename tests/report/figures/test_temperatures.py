"""Metrics over the temperature: what is drawn where, and what is not."""

import pandas as pd
import pytest

from sparsepo.report.figures.dynamics import plot_temperatures


def _table():
    """Two methods at two temperatures, ROUGE-L 0.2 and 0.3, and a reward that knows no temperature."""
    rows = [{"label": name.upper(), "method": name, "variant": "", "reward": 0.5} for name in ("sft", "dpo")]
    for name, level in (("sft", 0.2), ("dpo", 0.3)):
        for variant in ("0.25", "1"):
            numbers = {"rouge_l": level, "rouge_l_low": level - 0.1, "rouge_l_high": level + 0.1}
            rows.append({"label": name.upper(), "method": name, "variant": variant} | numbers)
    return pd.DataFrame(rows).assign(reward_low=0.4, reward_high=0.6)


def test_a_metric_is_a_panel_and_a_method_a_line_with_its_intervals():
    figure = plot_temperatures(_table())
    (axes,) = [axes for axes in figure.axes if axes.get_visible()]
    assert axes.get_title() == "ROUGE-L"
    assert {line.get_label(): set(line.get_ydata()) for line in axes.lines} == {"SFT": {0.2}, "DPO": {0.3}}
    for line in axes.lines:
        assert line.get_xdata() == pytest.approx([0.25, 1.0], abs=0.01)
    ends = sorted({round(y, 6) for drawn in axes.collections for path in drawn.get_paths() for _, y in path.vertices})
    assert ends == [0.1, 0.2, 0.3, 0.4]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["SFT", "DPO"]


def test_the_figure_is_the_same_each_time(assert_renders_alike):
    assert_renders_alike(lambda: plot_temperatures(_table()))
