"""What pydantic checks, in plain words: names that may stand in paths, and error messages."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from sparsepo.runtime.errors import did_you_mean, format_value, one_line


def name_type(pattern: str, rule: str) -> Any:
    """The type of a name that matches a regular expression; `rule` says in words which characters it has."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(f"must be a name of {rule}")
        return value

    return Annotated[str, AfterValidator(check), WithJsonSchema({"type": "string", "pattern": f"^{pattern}$"})]


def error_message(detail: Mapping[str, Any]) -> str:
    """What is wrong with a value, of one entry of `ValidationError.errors()`; where it stands is not said."""
    kind, given, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "located":  # see sparsepo.config.base.raise_errors
        return context["message"]
    if kind == "missing":
        return "is missing; it has no default"
    if kind == "union_tag_invalid":
        allowed = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return f"'{one_line(context['tag'], 64)}' is unknown; {did_you_mean(context['tag'], allowed)}"
    if kind == "union_tag_not_found":
        return f"needs a key {context['discriminator']} that says what kind it is"
    if kind == "too_short":
        return "is empty; give at least one"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return f"must be a mapping, not {format_value(given)}"
    message = detail["msg"].replace("Input should be", "must be").replace("Value error, ", "")
    return f"{message[0].lower()}{message[1:]}, not {format_value(given)}"
