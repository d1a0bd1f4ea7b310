"""Prompts and pairs of the user's data as records: chats rendered, plain prompts wrapped, long prompts settled."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from sparsepo.data.chat import ChatRenderer, Message
from sparsepo.data.encoding import Encoder
from sparsepo.data.messages import as_chat, as_messages
from sparsepo.data.records import Preference, Prompt, as_record
from sparsepo.runtime.errors import UserError, one_line
from sparsepo.runtime.user_code import ALL_COLUMNS

PromptRecord = TypeVar("PromptRecord", Prompt, Preference)


@dataclass(frozen=True)
class PromptLimit:
    """The longest prompt in tokens, and what becomes of a longer one: `drop`, `refuse` or `truncate_left`.

    vocab_size: of the model, where it is known; a prompt with an id from there on is refused.
    """

    encoder: Encoder
    max_tokens: int
    on_long_prompt: str = "drop"
    vocab_size: int | None = None

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        context: int,
        max_prompt_tokens: int,
        max_new_tokens: int,
        on_long_prompt: str,
        vocab_size: int | None = None,
    ) -> "PromptLimit":
        """The limit that a config and the context of its model set. Raises UserError where no prompt has room."""
        if context <= max_new_tokens:
            raise UserError(
                f"the context of the model is {context} tokens, and a response may have {max_new_tokens} "
                "(max_new_tokens): no prompt fits; reduce max_new_tokens"
            )
        return cls(encoder, min(max_prompt_tokens, context - max_new_tokens), on_long_prompt, vocab_size)

    @property
    def reason(self) -> str:
        """Why a prompt is dropped."""
        return f"prompt is longer than {self.max_tokens} tokens"

    def apply(self, record: PromptRecord, place: str) -> PromptRecord | None:
        """The record, with the end of a prompt that is cut; None where it is dropped. Raises UserError to refuse."""
        ids = self.encoder.prompt_ids(record)
        if self.vocab_size is not None and max(ids, default=0) >= self.vocab_size:
            token = self.encoder.tokenizer.convert_ids_to_tokens(max(ids))
            raise UserError(
                f"{place}: the tokenizer makes id {max(ids)} ('{one_line(token, 50)}') of this prompt, and config.json "
                f"says vocab_size {self.vocab_size}: use the tokenizer that belongs to the model"
            )
        if len(ids) <= self.max_tokens:
            return record
        if self.on_long_prompt == "refuse":
            raise UserError(
                f"{place}: the prompt has {len(ids)} tokens, and {self.max_tokens} fit: training.max_prompt_tokens, or "
                "what max_new_tokens leaves of the context of the model; data.on_long_prompt can drop or cut it"
            )
        return self._truncated(record) if self.on_long_prompt == "truncate_left" else None

    def _truncated(self, record: PromptRecord) -> PromptRecord:
        tokenizer = self.encoder.tokenizer
        ids = tokenizer(record.prompt, add_special_tokens=False)["input_ids"]
        for start in range(len(ids)):  # the end of a text may have more tokens than it had in the whole
            shorter = replace(record, prompt=tokenizer.decode(ids[start:], clean_up_tokenization_spaces=False))
            if len(ids) - start <= self.max_tokens and len(self.encoder.prompt_ids(shorter)) <= self.max_tokens:
                return shorter
        return replace(record, prompt="")


@dataclass
class PromptBuilder:
    """Makes records of prompts and of pairs; without a renderer, texts stay as they are and chats are errors.

    wrap_prompts: a plain prompt becomes a turn of the user, behind the system message if there is one. dropped: number
    of prompts and pairs without a record, by reason. columns: those of a row that prompts keep for functions of the
    user, each with whether it is needed; `*` for all.
    """

    renderer: ChatRenderer | None = None
    wrap_prompts: bool = False
    system_message: str | None = None
    limit: PromptLimit | None = None
    dropped: Counter = field(default_factory=Counter)
    columns: Mapping[str, bool] = field(default_factory=dict)

    @classmethod
    def of(
        cls, tokenizer: Any, chat: Any, limit: PromptLimit | None = None, columns: Mapping[str, bool] | None = None
    ) -> "PromptBuilder":
        """What the chat options of a config's `model` section ask for."""
        renderer = ChatRenderer(tokenizer, chat.chat_template_kwargs, chat.add_generation_prompt)
        return cls(renderer, chat.wrap_prompts, chat.system_message, limit, columns=columns or {})

    def columns_of(self, row: Mapping[str, Any], place: str) -> dict[str, Any] | None:
        """The columns of a row beside its prompt that are kept. Raises UserError for one that is missing or no JSON."""
        others = {name: value for name, value in row.items() if name != "prompt"}
        for name, is_needed in self.columns.items():
            if is_needed and name not in others:
                names = one_line(", ".join(map(str, row)), 300)
                raise UserError(f"{place}: no column '{name}', which a function of the config takes; it has {names}")
        kept = {name: value for name, value in others.items() if {name, ALL_COLUMNS} & self.columns.keys()}
        for name, value in kept.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError):
                raise UserError(
                    f"{place}: column '{name}' is a {type(value).__name__}; a function of the config can take texts, "
                    "finite numbers, true, false, null, and lists and mappings of these"
                ) from None
        return kept or None

    @property
    def notes(self) -> list[str]:
        """What a user should know of the prompts: what was dropped, and what the chat template did not read."""
        return [*(f"dropped {count}: {reason}" for reason, count in self.dropped.items()), *self.unread_notes]

    @property
    def unread_notes(self) -> list[str]:
        """A sentence for each field of messages that the chat template did not read."""
        unread = self.renderer.unread if self.renderer else {}
        return [
            f"the chat template does not read the field '{name}' of messages (first: {place})"
            for name, place in unread.items()
        ]

    def prompt(self, prompt: str | list[Message], place: str, **fields: Any) -> Prompt | None:
        """The record of a text or of the messages of a chat; None for one that is dropped because of its length.

        fields: further fields of the record. Raises UserError, naming `place`, for a chat that cannot be rendered.
        """
        if self.wrap_prompts or not isinstance(prompt, str):
            messages = self._wrapped(prompt) if isinstance(prompt, str) else as_messages(as_chat(prompt, place), "user")
            prompt = self._renderer(place).render_prompt(messages, place)
            fields |= {"messages": messages, "rendered": self.renderer.rendered}
        return self._limited(Prompt(prompt, **fields), place)

    def pair(self, row: Mapping[str, Any], place: str) -> Preference | None:
        """The record of a row {"prompt", "chosen", "rejected"}; None if its sides differ before the last turn.

        Each of the three is a text or a list of messages, and of chats the prompt may be missing: then it is what both
        begin with. `tools`, and other fields of `Preference`, are optional. Raises UserError, naming `place`, for a row
        that is no pair and for a chat that cannot be rendered.
        """
        if not any(isinstance(row.get(name), list) for name in ("prompt", "chosen", "rejected")):
            return as_record(row, Preference, place)
        chats = [as_chat(row.get(side), f"{place}: field '{side}'") for side in ("chosen", "rejected")]
        sides = [as_messages(chat, "assistant") for chat in chats]
        prompt = row.get("prompt")
        if prompt is None or (isinstance(prompt, str) and len(sides[0]) > 1):  # the chats hold the prompt
            messages = sides[0][:-1]
        else:
            messages = as_messages(as_chat(prompt, f"{place}: field 'prompt'"), "user")
        return self._rendered_pair(row, messages, sides, place)

    def _rendered_pair(
        self, row: Mapping[str, Any], messages: list[Message], sides: Sequence[list[Message]], place: str
    ) -> Preference | None:
        rest = [chat[len(messages) :] if chat[: len(messages)] == messages else chat for chat in sides]
        if not messages or any(len(chat) != 1 for chat in rest):
            return None
        renderer, tools, other = self._renderer(place), row.get("tools"), row.get("rejected_prompt")
        own = messages if other is None else self._wrapped(other) if isinstance(other, str) else other
        prompts = [renderer.render_prompt(chat, place, tools) for chat in (messages, own)]
        texts = [
            renderer.render_response(before, prompt, chat[0], place, tools)
            for before, prompt, chat in zip((messages, own), prompts, rest, strict=True)
        ]
        others = {name: value for name, value in row.items() if name not in ("prompt", "chosen", "rejected", "tools")}
        record = {"prompt": prompts[0], "chosen": texts[0], "rejected": texts[1], "messages": messages}
        record |= {} if other is None else {"rejected_prompt": prompts[1]}
        return as_record(others | record | {"rendered": renderer.rendered}, Preference, place)

    def settle(self, pair: Preference, place: str) -> Preference | str:
        """The pair with its prompt wrapped and cut where that is asked for; or why it is dropped."""
        if self.wrap_prompts and pair.messages is None:
            sides = [[{"role": "assistant", "content": text}] for text in (pair.chosen, pair.rejected)]
            pair = self._rendered_pair(vars(pair), self._wrapped(pair.prompt), sides, place)
        return self._limited(pair, place) or self.limit.reason

    def _limited(self, record: PromptRecord, place: str) -> PromptRecord | None:
        limited = record if self.limit is None else self.limit.apply(record, place)
        if limited is None:
            self.dropped[self.limit.reason] += 1
        return limited

    def _renderer(self, place: str) -> ChatRenderer:
        if self.renderer is None:
            raise UserError(f"{place}: a chat as messages needs a tokenizer with a chat template")
        return self.renderer

    def _wrapped(self, prompt: str) -> list[Message]:
        system = [{"role": "system", "content": self.system_message}] if self.system_message else []
        return [*system, {"role": "user", "content": prompt}]
