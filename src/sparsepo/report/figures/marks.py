"""Parts that charts share: colours, markers and dashes with their legend, and lines with intervals."""

from collections.abc import Mapping

import altair as alt
import pandas as pd

from sparsepo.report.figures.style import MethodStyle, method_style


def method_encodings(labels: Mapping[str, str]) -> tuple[alt.Color, alt.Shape, alt.StrokeDash]:
    """`line_encodings` of methods. labels: method -> printed name."""
    return line_encodings({label: method_style(method) for method, label in labels.items()})


def line_encodings(styles: Mapping[str, MethodStyle], columns: int = 4) -> tuple[alt.Color, alt.Shape, alt.StrokeDash]:
    """Colour, marker and dash by the field `label`, with one legend. styles: label -> style."""
    legend = alt.Legend(
        title=None, columns=columns, symbolSize=60, symbolDash=[1, 0], symbolOpacity=1, symbolStrokeWidth=0
    )
    names = list(styles)
    return (
        alt.Color("label:N", legend=legend).scale(domain=names, range=[style.colour for style in styles.values()]),
        alt.Shape("label:N", legend=legend).scale(domain=names, range=[style.marker for style in styles.values()]),
        alt.StrokeDash("label:N", legend=legend).scale(domain=names, range=[style.dash for style in styles.values()]),
    )


def interval_lines(
    rows: pd.DataFrame, x: alt.X, y_title: str, styles: Mapping[str, MethodStyle], columns: int = 4
) -> alt.LayerChart:
    """A line for each label of `styles` through its markers, and an upright rule where a row has bounds.

    rows: `label`, `x`, `mean`, `low` and `high`, which are nan where there is no interval. columns: of the legend.
    """
    colour, shape, dash = line_encodings(styles, columns)
    y = alt.Y("mean:Q", title=y_title, scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6))
    base = alt.Chart().encode(x, y, colour)
    rules = base.mark_rule(opacity=0.6, strokeWidth=0.8).encode(alt.Y("low:Q", title=y_title), y2="high:Q")
    return alt.layer(
        rules.transform_filter("isValid(datum.low)"),
        base.mark_line(strokeWidth=1.2).encode(dash),
        base.mark_point(filled=True, opacity=1, size=40).encode(shape),
        data=rows,
    )
