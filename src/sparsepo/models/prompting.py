"""What turns the data of a task into prompts, as its config asks: tokenizer, chat template, longest prompt."""

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import GenerationConfig

from sparsepo.data.chat import set_chat_template
from sparsepo.data.encoding import Encoder
from sparsepo.data.prompts import PromptBuilder, PromptLimit
from sparsepo.data.sources import TaskData, first_words, make_data, token_cutter
from sparsepo.models.adapter_folder import read_base
from sparsepo.models.loading import (
    LOADING_ERRORS,
    fetch_tokenizer,
    spec_config,
    spec_context_length,
    text_tokenizer,
    train_tokenizer,
)
from sparsepo.runtime.atomic_folder import is_adapter_folder
from sparsepo.runtime.entry_point import time_limit

PROBES = [sign * 2000 + "!" for sign in ("a", "A", "1", ".", " ", "\n", "é", "a ")]
PROBE_SECONDS = 60.0
SLOW = (
    f"the tokenizer needs more than {PROBE_SECONDS:g} s for some short texts: a regular expression in its files is slow"
)


def task_data(
    model: Any,
    data: dict[str, Any],
    preferences: dict[str, Any] | None,
    limits: tuple[int, int],
    columns: Mapping[str, bool] | None = None,
) -> tuple[TaskData, PromptBuilder]:
    """The data of a task, and what made its prompts.

    model: the section of the config; data, preferences: sections as plain dicts; limits: training.max_prompt_tokens,
    and the most tokens of a sampled response; columns: see PromptBuilder. Raises UserError for data that cannot be read
    or do not fill the splits.
    """
    builder = prompt_builder(model, data, preferences, limits, columns)
    cut = first_words if model.source == "scratch" else token_cutter(builder.renderer.tokenizer)
    return make_data(data, preferences, cut, builder), builder


def prompt_builder(
    model: Any,
    data: dict[str, Any],
    preferences: dict[str, Any] | None,
    limits: tuple[int, int],
    columns: Mapping[str, bool] | None = None,
) -> PromptBuilder:
    """What makes the prompts of a task; see `task_data`."""
    spec = model.model_dump(mode="json")
    tokenizer = _new_tokenizer(model, data, preferences) if model.source == "scratch" else fetch_tokenizer(spec)
    encoder = Encoder(tokenizer, SimpleNamespace(generation_config=_generation_config(spec)))
    vocab_size = None
    if model.source != "scratch":
        with time_limit(PROBE_SECONDS, SLOW):
            text_tokenizer(tokenizer)(PROBES, add_special_tokens=False)
        if model.source != "folder" or not is_adapter_folder(
            model.path
        ):  # whose embedding may be larger than its base's
            vocab_size = getattr(spec_config(spec), "vocab_size", None)
    limit = PromptLimit.of(encoder, spec_context_length(spec), *limits, data["on_long_prompt"], vocab_size)
    return PromptBuilder.of(tokenizer, model, limit, columns)


def _new_tokenizer(model: Any, data: dict[str, Any], preferences: dict[str, Any] | None) -> Any:
    """The tokenizer that a model from scratch will get: it is trained on the corpus, which needs none."""
    kind, size = model.tokenizer.kind, model.tokenizer.vocab_size
    empty = set_chat_template(train_tokenizer([], kind, size), model.chat_template)
    corpus = make_data(data, preferences, first_words, PromptBuilder.of(empty, model)).corpus
    return set_chat_template(train_tokenizer([text.text for text in corpus], kind, size), model.chat_template)


def _generation_config(spec: dict[str, Any]) -> GenerationConfig | None:
    """Of a model on the hub or in a folder, of an adapter that of its base, if it has one."""
    if spec["source"] not in ("hub", "folder"):
        return None
    name, revision = spec.get("id") or spec["path"], spec.get("revision")
    while is_adapter_folder(Path(name)):
        name, revision, *_ = read_base(Path(name))
    try:
        return GenerationConfig.from_pretrained(name, revision=revision or "main")
    except LOADING_ERRORS:
        return None
