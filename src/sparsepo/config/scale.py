"""The section `scale`: one factor makes a task smaller or larger."""

from typing import Any

from sparsepo.config.base import Factor, Section


class ScaleConfig(Section):
    """Factors on the numbers of a task, to try it out small or to run it larger than it is written."""

    prompts: Factor = 1.0
    """Multiplies numbers of prompts, documents, problems and inspected pairs."""
    tokens: Factor = 1.0
    """Multiplies `max_new_tokens`."""
    steps: Factor = 1.0
    """Multiplies `num_train_epochs` and `max_steps`."""


FACTORS = {
    "train": "prompts",
    "validation": "prompts",
    "test": "prompts",
    "texts": "prompts",
    "labelled": "prompts",
    "sample": "prompts",
    "prompts": "prompts",
    "problems": "prompts",
    "frontier_prompts": "prompts",
    "token_pairs": "prompts",
    "fit_prompts": "prompts",
    "max_new_tokens": "tokens",
    "max_steps": "steps",
    "num_train_epochs": "steps",
}
"""Key of a number in a task -> the factor of `scale` that multiplies it."""


def scaled(section: dict[str, Any], scale: ScaleConfig) -> dict[str, Any]:
    """A section as plain values with the numbers of FACTORS multiplied; whole numbers stay whole and at least 1."""
    return {
        key: value
        if key == "methods"
        else scaled(value, scale)
        if isinstance(value, dict)
        else _number(key, value, scale)
        for key, value in section.items()
    }


def _number(key: str, value: Any, scale: ScaleConfig) -> Any:
    factor = getattr(scale, FACTORS[key]) if key in FACTORS else 1.0
    if factor == 1.0 or isinstance(value, bool) or not isinstance(value, int | float) or value == 0:
        return value
    return max(1, round(value * factor)) if isinstance(value, int) else value * factor
