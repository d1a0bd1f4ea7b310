"""An error of pydantic as one line: file, line, the keys that lead to the value, what is wrong, what is allowed."""

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError
from typing_extensions import is_typeddict

from sparsepo.config import Config
from sparsepo.config.grids import BuiltInMethods, methods_type
from sparsepo.config.preferences import SOURCE_FIELDS
from sparsepo.runtime.errors import did_you_mean, format_value, one_line
from sparsepo.runtime.validation import error_message

Location = tuple[str | int, ...]
"""Keys and indices from the top of a config to a value."""

MAX_LINES = 20

RENAMED = {
    "also": "extra_scorers",
    "epochs": "num_train_epochs",
    "fewshot": "num_fewshot",
    "keep": "checkpoint_selection",
    "key_variable": "api_key_env",
    "kinds": "activation_sites",
    "mean": "target_mean",
    "opening": "prompt_tokens",
    "parallel": "max_concurrency",
    "processes": "num_processes",
    "quantise": "quantization",
    "schedule": "lr_scheduler_type",
    "size": "scale",
    "targets": "target_modules",
    "vocabulary": "vocab_size",
    "warmup": "warmup_ratio",
    "wins": "win_rate",
}
"""Keys that had another name in earlier versions -> their name."""

START = "was removed: a learned mask starts with each weight near 1 (init: ones), or as published (init: authors)"
READING = "was removed: write reading: authors (in place of minmax) or reading: paper (of zscore) instead"
REMOVED = {"initial_zeros": ("init", START), "init_sparsity": ("init", START), "normalisation": ("reading", READING)}
"""Keys of earlier versions without another name -> the key that does their work, and what to write instead."""

LENGTHS = "was removed: write max_length_difference, the most words by which the responses of a pair differ in length"
COLUMNS = "write columns: {{{}: ...}} beside this section instead"
ELSEWHERE = {
    **{(section, key): COLUMNS.format(key) for section in ("hub", "package") for key in ("text", "label")},
    **{("preferences", key): "stands in the section 'preferences', beside its path" for key in ("validation", "test")},
    **{(source, "max_words"): LENGTHS for source in SOURCE_FIELDS},
}
"""(section or source, key that it does not have) -> where that stands."""

NO_NUMBERS = "the paper prints no numbers of this task: leave it out"
UNSAFE = "write it in words: unsafe_execution: run programs with my rights"
ABLATIONS = "write one of ablation_architecture, ablation_weight_decay and ablation_binary_and_random"
REMOVED_VALUES = {
    ("published", "imdb"): NO_NUMBERS,
    ("published", "tldr"): NO_NUMBERS,
    ("published", "ablation"): ABLATIONS,
    ("unsafe_execution", "True"): UNSAFE,
    ("unsafe_execution", "true"): UNSAFE,
}
"""(key, value that it had in earlier versions) -> what to write instead."""


def error_lines(
    error: ValidationError, raw: Any, lines: Mapping[Location, str], overrides: Mapping[str, Any], path: str
) -> list[str]:
    """One line for each error, at most 20.

    raw: the config that was checked; lines: location -> file:line; overrides: what the command line set; path: the
    file that is named where no line is known.
    """
    details = error.errors()
    messages = [_error_line(detail, raw, lines, overrides, path) for detail in details[:MAX_LINES]]
    messages += [f"{path}: and {len(details) - MAX_LINES} more"] * (len(details) > MAX_LINES)
    return list(dict.fromkeys(messages))


def _error_line(
    detail: Mapping[str, Any], raw: Any, lines: Mapping[Location, str], overrides: Mapping[str, Any], path: str
) -> str:
    location = _location(detail, raw)
    known = next((depth for depth in range(len(location), 0, -1) if location[:depth] in lines), 0)
    overridden = _overridden_depth(location, overrides)
    from_command_line = overridden > known or overridden == len(location) > 0
    where = "--config" if from_command_line else lines[location[:known]] if known else path
    keys = "".join(f"[{part}]" if isinstance(part, int) else f".{_quoted(str(part))}" for part in location)
    return f"{where}: {one_line(keys.lstrip('.'), 200) or 'the config'}: {one_line(_message(detail))}"


def _message(detail: Mapping[str, Any]) -> str:
    if detail["type"] == "literal_error" and (removed := REMOVED_VALUES.get((detail["loc"][-1], str(detail["input"])))):
        return removed
    if detail["type"] != "extra_forbidden":
        return error_message(detail)
    key, allowed = str(detail["loc"][-1]), keys_at(detail["loc"][:-1])
    if (new := RENAMED.get(key)) in allowed:
        return f"'{key}' is now called '{new}': write {new} instead"
    if key in REMOVED and REMOVED[key][0] in allowed:
        return REMOVED[key][1]
    return ELSEWHERE.get((*detail["loc"][-2:-1], key)) or f"unknown key; {did_you_mean(key, allowed)}"


def _quoted(key: str) -> str:
    """A key as people write it, in quotes where it could not be seen otherwise."""
    return one_line(key, 64) if key and key == key.strip() else format_value(key, 64)


def _location(detail: Mapping[str, Any], raw: Any) -> Location:
    """Where the value stands: pydantic's location without what it adds for unions, and with what a check adds."""
    location: list[str | int] = []
    is_tag_read = False
    for index, part in enumerate(detail["loc"]):
        if not is_tag_read and isinstance(raw, Mapping) and raw.get("source", raw.get("kind")) == part:
            is_tag_read = True  # the member of a union, which follows the key of the section
            continue
        is_tag_read = False
        if (isinstance(raw, Mapping) and part in raw) or (isinstance(raw, list) and part in range(len(raw))):
            raw = raw[part]
        elif index < len(detail["loc"]) - 1 or part == "[key]" or isinstance(part, int):
            continue  # an index that is not there is that of one value, which was taken for a list
        location.append(part)
    context = detail.get("ctx", {})
    if detail["type"] == "union_tag_invalid":
        return (*location, context["discriminator"].strip("'"))
    return (*location, *context.get("location", ()))


def _overridden_depth(location: Location, overrides: Any) -> int:
    """How many parts of a location the overrides spell out; all of them below a value that they replace."""
    for depth, part in enumerate(location):
        if not isinstance(overrides, Mapping):
            return len(location)
        if part not in overrides:
            return depth
        overrides = overrides[part]
    return len(location)


# --- which keys a section may have


def keys_at(location: Location) -> list[str]:
    """The keys that the section at a location of pydantic may have."""
    sections: list[Any] = [Config]
    for part in location:
        tagged = [section for section in sections if part in _tags(section)]
        below = [each for section in sections if part in _keys(section) for each in _types(_keys(section)[part])]
        sections = tagged or below or sections  # neither: a name of the user's, or an index
    return [key for section in sections for key in _keys(section)]


def _keys(section: Any) -> dict[str, Any]:
    """Key -> type, of a model or a TypedDict; of `methods` those that are registered now."""
    section = methods_type() if section is BuiltInMethods else section
    if hasattr(section, "model_fields"):
        return {key: field.annotation for key, field in section.model_fields.items()}
    return section.__annotations__ if is_typeddict(section) else {}


def _types(annotation: Any) -> list[Any]:
    """The types that an annotation is made of: members of unions, values of mappings."""
    members = get_args(annotation)
    return [each for member in members for each in _types(member)] if members else [annotation]


def _tags(section: Any) -> tuple[Any, ...]:
    """What `source` or `kind` is in this member of a union."""
    return tuple(tag for key in ("source", "kind") for tag in get_args(_keys(section).get(key)))
