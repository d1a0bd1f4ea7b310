"""Reading a chart as a test wants it: its panels, their data, what a legend names."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import pytest

from sparsepo.report.figures.style import to_spec


@dataclass(frozen=True)
class Panel:
    """A part of a chart that has one pair of axes."""

    spec: dict[str, Any]
    rows: pd.DataFrame

    @property
    def title(self):
        title = self.spec.get("title", "")
        return title["text"] if isinstance(title, dict) else title

    def axis(self, name):
        """The definition of `x` or `y` in the first layer that has one."""
        layers = [self.spec, *_layers(self.spec)]
        return next(layer["encoding"][name] for layer in layers if name in layer.get("encoding", {}))


def _layers(spec):
    for layer in spec.get("layer", ()):
        yield layer
        yield from _layers(layer)


def _panels(spec, datasets, inherited=()):
    names = [part["data"]["name"] for part in (spec, *_layers(spec)) if "data" in part] or inherited
    parts = next((spec[kind] for kind in ("vconcat", "hconcat", "concat") if kind in spec), None)
    if parts is not None:
        return [panel for part in parts for panel in _panels(part, datasets, names)]
    frames = [pd.DataFrame(datasets[name]) for name in names]
    return [Panel(spec, pd.concat(frames, ignore_index=True))]


@pytest.fixture
def read_panels():
    """The panels of a chart, row by row."""

    def read(chart):
        spec = to_spec(chart, 8)
        return _panels(spec, spec["datasets"])

    return read


@pytest.fixture
def legend_names():
    """What the colours of a chart stand for, in order."""

    def read(chart):
        text = [layer for panel in _specs(to_spec(chart, 8)) for layer in (panel, *_layers(panel))]
        domains = [
            layer["encoding"]["color"]["scale"]["domain"] for layer in text if "color" in layer.get("encoding", {})
        ]
        assert all(domain == domains[0] for domain in domains)
        return domains[0]

    return read


def _specs(spec):
    parts = next((spec[kind] for kind in ("vconcat", "hconcat", "concat") if kind in spec), None)
    return [spec] if parts is None else [leaf for part in parts for leaf in _specs(part)]
