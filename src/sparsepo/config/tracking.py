"""The section `tracking`: the trackers that curves and tables are sent to."""

from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from sparsepo.config.base import Section, Text, must, raise_error

TrackerName = Literal["wandb", "trackio", "tensorboard", "mlflow"]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _installed(names: list[str]) -> list[str]:
    """Refuse a tracker whose package, which is not imported here, is missing.

    A folder `wandb/` of runs in the working directory has a spec too, but no origin.
    """
    missing = [name for name in names if getattr(find_spec(name), "origin", None) is None]
    return raise_error(f"not installed; write: pip install {' '.join(missing)}") if missing else names


class TrackingConfig(Section):
    """Trackers for the curves of training runs and for the tables. It changes no result."""

    report_to: Annotated[
        list[TrackerName],
        BeforeValidator(_as_list, json_schema_input_type=TrackerName | list[TrackerName]),
        Field(min_length=1),
        must(lambda names: len(set(names)) == len(names), "each tracker once, not {}"),
        must(lambda names: _installed(names) is names, "{}"),
    ]
    """One tracker or several, whose packages are installed: `wandb`, `trackio`, `tensorboard`, `mlflow`."""
    project: Text | None = None
    """Project, in MLflow experiment; null takes the config's name."""
    group: Text | None = None
    """Group of the runs; null groups them by task."""
    tags: list[Text] = []
    """Tags of each run."""
