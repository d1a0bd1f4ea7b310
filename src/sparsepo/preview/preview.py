"""The token ids that the pairs of a task would be trained on, and what a user should know about them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from math import prod
from typing import Any

from sparsepo.config import TaskConfig
from sparsepo.config.preferences import FilePreferences
from sparsepo.data.encoding import Encoder, TokenPair, encode_pairs
from sparsepo.data.preference_formats import read_preferences
from sparsepo.data.prompts import PromptBuilder
from sparsepo.data.records import Preference, Prompt
from sparsepo.evaluation.significance import smallest_difference
from sparsepo.evaluation.statistics import MIN_PROMPTS
from sparsepo.models.limits import NO_LIMIT, config_context_length
from sparsepo.models.loading import fetch_tokenizer, spec_config
from sparsepo.models.prompting import prompt_builder, task_data
from sparsepo.workflow.settings import max_new_tokens


@dataclass
class Preview:
    """A task as it would be trained on.

    pairs: the records that can be trained on, with their token ids; empty where pairs are sampled first. prompts: of
    all splits, where the pairs do not exist yet. dropped: how many others, by reason. warnings: sentences.
    """

    encoder: Encoder
    pairs: list[tuple[Preference, TokenPair]] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)

    def as_dict(self, count: int | None) -> dict[str, Any]:
        """The first `count` pairs (None: all), or else prompts, as JSON."""
        as_json: dict[str, Any] = {
            "pairs": [
                {f"{part}_ids": getattr(ids, part) for part in ("prompt", "chosen", "rejected")}
                | {part: getattr(record, part) for part in ("prompt", "chosen", "rejected")}
                | ({"rejected_prompt_ids": ids.rejected_prompt} if ids.rejected_prompt else {})
                for record, ids in self.pairs[:count]
            ]
        }
        if not self.pairs and self.prompts:
            prompts = self.prompts[:count]
            as_json["prompts"] = [
                {"prompt_ids": self.encoder.prompt_ids(each), "prompt": each.prompt} for each in prompts
            ]
        return as_json | {"dropped": dict(self.dropped), "warnings": self.warnings}


def preview_task(task: TaskConfig) -> Preview:
    """The preview of a task of a config. Raises UserError for a model or data that cannot be read."""
    limits = (task.training.max_prompt_tokens, max_new_tokens(task))
    data = task.data.model_dump(mode="json")
    if not isinstance(task.preferences, FilePreferences):
        prepared, builder = task_data(task.model, data, None, limits, task.columns)
        preview = Preview(builder.limit.encoder, prompts=list(chain.from_iterable(prepared.prompts.values())))
        preview.dropped.update(builder.dropped)
        wrapped = any(prompt.messages for prompt in preview.prompts)
        texts = [prompt.prompt for prompt in preview.prompts]
    else:
        section = task.preferences.model_dump(mode="json")
        builder = prompt_builder(task.model, data, section, limits)
        preview = _preview_pairs(task, section, builder)
        wrapped = any(record.messages for record, _ in preview.pairs)
        texts = [record.prompt for record, _ in preview.pairs]
    preview.warnings += builder.unread_notes
    preview.warnings += template_warnings(task, builder, wrapped, texts)
    return preview


def power_sentence(task: TaskConfig) -> str:
    """Which difference between two methods the test prompts and seeds of a task can show."""
    prompts, seeds = task.data.prompts.test, len(task.seeds)
    if prompts < MIN_PROMPTS:
        return f"{prompts} test prompts: no differences are tested, which takes {MIN_PROMPTS} (data.prompts.test)"
    settings = sum(prod(map(len, grid.values())) for _, grid in task.grids)
    rows = 1 + (settings if task.evaluation.rows == "settings" else len(task.methods))
    pairs = rows * (rows - 1) // 2

    def sizes(seed_deviation: float) -> str:
        size = smallest_difference(prompts, seeds, pairs, seed_deviation)
        return f"{size:.2f} (of a share near 50%: {50 * size:.0f} points)"

    trainings = "; one seed says nothing of other trainings"
    if seeds > 1:
        trainings = f", or {sizes(0.15)} where trainings vary by 0.15"
    counts = {"test prompt": prompts, "seed": seeds, "pair": pairs}
    given = ", ".join(f"{count} {noun}{'s' * (count != 1)}" for noun, count in counts.items())
    return (
        f"with {given} of systems, a difference is found in 80% of cases from {sizes(0.0)} standard deviations of a "
        f"score over prompts{trainings}; from less where systems agree on which prompts are hard"
    )


def _preview_pairs(task: TaskConfig, section: Mapping[str, Any], builder: PromptBuilder) -> Preview:
    file_pairs = read_preferences(section, builder)
    config = spec_config(task.model.model_dump(mode="json"))
    context = NO_LIMIT if config is None else config_context_length(config)
    encoder, training = builder.limit.encoder, task.training
    encoded = encode_pairs(encoder, file_pairs.pairs, training.max_prompt_tokens, training.max_response_tokens, context)
    pairs = [(file_pairs.pairs[index], ids) for index, ids in zip(encoded.indices, encoded.pairs, strict=True)]
    preview = Preview(encoder, pairs, dropped=file_pairs.dropped + Counter(encoded.dropped))
    total, lossy = len(pairs), sum(not decodes_to_text(encoder, *pair) for pair in pairs)
    size = NO_LIMIT if task.model.source == "scratch" else getattr(config, "vocab_size", None) or NO_LIMIT
    too_large = sum(max(ids.prompt + ids.chosen + ids.rejected) >= size for _, ids in pairs)
    first = "" if not file_pairs.first else f"; the first of each: {', '.join(file_pairs.first.values())}"
    preview.warnings += [
        *[f"{sum(preview.dropped.values())} rows give no pair{first}"] * bool(preview.dropped),
        *[
            f"{too_large} of {total} pairs have token ids above {size - 1}, which the model has no row for: training "
            "refuses them; use the model's own tokenizer, or resize its embedding"
        ]
        * bool(too_large),
        *[f"{encoded.num_cut} of {total} pairs have a response that is cut"] * bool(encoded.num_cut),
        *[
            f"{encoded.num_merged} of {total} pairs: the tokenizer would merge the end of the prompt with the start of "
            "a response; they are encoded apart, as in sampling"
        ]
        * bool(encoded.num_merged),
        *[f"{lossy} of {total} pairs: the tokens do not decode to the text; the tokenizer changes it"] * bool(lossy),
    ]
    return preview


def decodes_to_text(encoder: Encoder, record: Preference, ids: TokenPair) -> bool:
    """Whether the ids of prompt and chosen response, as far as they were not cut, decode to their texts."""
    prompt = [token for token in ids.prompt if token not in encoder.prefix] if not record.rendered else ids.prompt
    text = encoder.tokenizer.decode(
        prompt + [token for token in ids.chosen if token not in encoder.end_ids], clean_up_tokenization_spaces=False
    )
    return (record.prompt + record.chosen).startswith(text) or text.startswith(record.prompt + record.chosen)


def template_warnings(task: TaskConfig, builder: PromptBuilder, are_chats: bool, texts: list[str]) -> list[str]:
    """What to say where the tokenizer has a chat template and training does without it."""
    if task.model.source == "scratch" or builder.renderer.rendered and are_chats or not texts:
        return []
    own = fetch_tokenizer(task.model.model_dump(mode="json") | {"chat_template": "auto"})
    if not getattr(own, "chat_template", None):
        return []
    message = [{"role": "user", "content": texts[0] if not are_chats else "..."}]
    would = own.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
    instead = f"chat_template {task.model.chat_template}" if are_chats else "plain prompts"
    remedy = "model.chat_template: auto" if are_chats else "model.wrap_prompts: true"
    return [f"the model has a chat template and is trained on {instead}; {remedy} would make {would[:300]!r}"]
