"""What the name of a run says: its method, its parameters and its seed."""

import re
from collections.abc import Mapping

RUN_STAGES = ("train_policy", "finish_rounds", "train_on_policy")
"""The stages that make runs, by the trainer of their method."""
COMPARED_METHODS = ("dpo", "tdpo2", "sparsepo_common", "sparsepo_independent")
"""The methods whose tokens Figures 1, 4 and 9 of arXiv 2410.05102 show."""
_SYMBOLS = {"alpha": "α", "beta": "β", "gamma": "γ", "lambda": "λ"}


def parse_run(run: str) -> tuple[str, dict[str, str], int | None]:
    """`tdpo2/alpha~0.5-beta~0.1/seed~0` is ("tdpo2", {"alpha": "0.5", "beta": "0.1"}, 0).

    `sft` is ("sft", {}, None). Values stay text. A hyphen parts two parameters only where a name
    and `~` follow, so that `beta~1e-05` is one value.
    """
    if run == "sft":
        return "sft", {}, None
    method, params, seed = run.split("/")
    pairs = [pair.split("~", 1) for pair in re.split(r"-(?=[A-Za-z_]\w*~)", params) if "~" in pair]
    return method, dict(pairs), int(seed.removeprefix("seed~"))


def params_text(params: Mapping[str, str]) -> str:
    """`alpha=0.5, beta=0.1`, sorted by name; `-` when there are none."""
    return ", ".join(f"{name}={params[name]}" for name in sorted(params)) or "-"


def short_params(params: Mapping[str, str], names: list[str]) -> str:
    """`β=0.1, α=0.5`: those of `names` that are given, in Greek where papers write them so."""
    given = [name for name in names if name in params]
    return ", ".join(f"{_SYMBOLS.get(name, name)}={params[name]}" for name in given) or "default"
