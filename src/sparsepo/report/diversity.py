"""Alignment against diversity: the reward of a method's responses over their entropy."""

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure

from sparsepo.report.frontier import draw_settings, draw_start, label_betas, legend, settings_of
from sparsepo.report.style import RC, method_style, new_figure
from sparsepo.report.tables import Score


@rc_context(RC)
def plot_diversity(scores: Sequence[Score]) -> Figure:
    """Mean reward over the entropy of responses (nats), a marker with intervals for each setting, SFT a star.

    The line of a method goes through its settings from the lowest reward to the highest.
    """
    trained, sft = settings_of(scores, "entropy")
    figure = new_figure(4.4)
    axes = figure.subplots()
    for method, rows in trained.groupby("method", sort=False):
        look, ordered = method_style(method), rows.sort_values("reward")
        axes.plot(ordered["entropy"], ordered["reward"], look.line, color=look.colour, linewidth=0.8, alpha=0.5)
        draw_settings(axes, look, rows, "entropy")
    start = [(float(row["entropy"]), float(row["reward"])) for _, row in sft.iterrows()]
    draw_start(axes, start)
    axes.set_xlabel("entropy: mean of −log π of a response (nats)")
    axes.set_ylabel("mean reward")
    figure.legend(handles=legend(trained, bool(start)), loc="outside lower center", ncols=4, handlelength=3.4)
    label_betas(figure, axes, trained, start, "entropy", scores)
    return figure
