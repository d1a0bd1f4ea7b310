"""Metrics over the temperature: what is drawn where, and what is not."""

import pandas as pd
import pytest

from sparsepo.report.figures.temperatures import plot_temperatures


def _table():
    """Two methods at two temperatures, ROUGE-L 0.2 and 0.3, and a reward that knows no temperature."""
    rows = [{"label": name.upper(), "method": name, "variant": "", "reward": 0.5} for name in ("sft", "dpo")]
    for name, level in (("sft", 0.2), ("dpo", 0.3)):
        for variant in ("0.25", "1"):
            numbers = {"rouge_l": level, "rouge_l_low": level - 0.1, "rouge_l_high": level + 0.1}
            rows.append({"label": name.upper(), "method": name, "variant": variant} | numbers)
    return pd.DataFrame(rows).assign(reward_low=0.4, reward_high=0.6)


def test_a_metric_is_a_panel_and_a_method_a_line_with_its_intervals(read_panels, legend_names):
    chart = plot_temperatures(_table())
    (panel,) = read_panels(chart)
    assert panel.title == "ROUGE-L" and legend_names(chart) == ["SFT", "DPO"]
    for label, level in (("SFT", 0.2), ("DPO", 0.3)):
        rows = panel.rows[panel.rows["label"] == label]
        assert rows["x"].tolist() == pytest.approx([0.25, 1.0], abs=0.01)
        assert rows["mean"].tolist() == [level] * 2
        assert rows["low"].tolist() == pytest.approx([level - 0.1] * 2)
        assert rows["high"].tolist() == pytest.approx([level + 0.1] * 2)


def test_the_figure_is_the_same_each_time(assert_renders_alike):
    assert_renders_alike(lambda: plot_temperatures(_table()))
