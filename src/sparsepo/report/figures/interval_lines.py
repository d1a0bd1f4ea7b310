"""Lines through means with their 95% intervals: over temperatures, rounds of training, or the size of an oracle."""

from collections.abc import Mapping

import altair as alt
import pandas as pd

from sparsepo.report.figures.style import MethodStyle, line_encodings


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
