"""Chats as the text that a model reads: its chat template applied, and cut into a prompt and its response."""

import json
from collections.abc import Mapping, Sequence
from os.path import commonprefix
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError

from sparsepo.data.records import read_text
from sparsepo.runtime.errors import UserError, one_line

Message = Mapping[str, Any]
"""One turn of a chat: `role`, `content`, and whatever else the chat template reads."""

TextOrChat = str | Sequence[Message]
"""A prompt for a reader that is not the policy: a text, or the messages of a chat."""

HH_TEMPLATE = """\
{%- set system = (messages[0].content | trim) ~ '\\n\\n' if messages[0].role == 'system' else '' -%}
{%- set chat = messages[1:] if system else messages -%}
{%- if messages | rejectattr('content', 'string') | list -%}
{{- raise_exception('a content that is no text') -}}
{%- endif -%}
{%- if not chat or chat[0].role != 'user' -%}
{{- raise_exception("a chat must begin with a message of the user, or of system and user") -}}
{%- endif -%}
{%- for message in chat -%}
{%- if message.role not in ('user', 'assistant') -%}
{{- raise_exception("a role '" ~ message.role ~ "'; allowed: system (first), user, assistant") -}}
{%- endif -%}
{{- '\\n\\nHuman: ' if message.role == 'user' else '\\n\\nAssistant: ' -}}
{{- (system if loop.first else '') ~ (message.content | trim) -}}
{%- endfor -%}
{{- '\\n\\nAssistant:' if add_generation_prompt else '' -}}
"""
"""Transcripts as in Anthropic's HH data, for base models; a system text begins the first turn of the human."""

NO_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.content is not string -%}{{- raise_exception('a content that is no text') -}}{%- endif -%}
{{- ('' if loop.first else '\\n\\n') ~ message.content -}}
{%- endfor -%}
"""
"""The contents of the messages, with an empty line between two of a prompt."""

TEMPLATES = {"hh": HH_TEMPLATE, "none": NO_TEMPLATE}
"""What `model.chat_template` can name beside `auto` and a file."""

CHOICES = "'hh' (transcripts of Human and Assistant), 'none' (contents alone) or the path of a jinja file"


class TextWithColumns(str):
    """A prompt with further columns of its row, which a scorer may ask for."""

    columns: Mapping[str, Any]


class ChatWithColumns(list):
    """The messages of a prompt with further columns of its row."""

    columns: Mapping[str, Any]


def scored_prompt(record: Any) -> TextOrChat:
    """The prompt of a record for scorers, judges and measures: its chat if it has one, never the policy's rendering."""
    prompt, columns = record.messages or record.prompt, getattr(record, "columns", None)
    if columns:
        prompt = TextWithColumns(prompt) if isinstance(prompt, str) else ChatWithColumns(prompt)
        prompt.columns = columns
    return prompt


def columns_of(prompt: TextOrChat) -> Mapping[str, Any]:
    """Further columns of the row that a prompt of `scored_prompt` comes from."""
    return getattr(prompt, "columns", {})


def plain_text(prompt: TextOrChat) -> str:
    r"""A text as it is; of a chat `Role: content` for each message, with an empty line between two.

    A message that calls tools, or whose content is not a text, is shown with all its fields as JSON.

    >>> plain_text([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}])
    'System: Be brief.\n\nUser: Hello'
    """
    return prompt if isinstance(prompt, str) else "\n\n".join(map(_plain_message, prompt))


def _plain_message(message: Message) -> str:
    content, fields = message.get("content"), {name: value for name, value in message.items() if name != "role"}
    shown = (
        content
        if isinstance(content, str) and not message.get("tool_calls")
        else json.dumps(fields, ensure_ascii=False)
    )
    return f"{message['role'].capitalize()}: {shown}"


def with_response(prompt: TextOrChat, response: str) -> TextOrChat:
    """A prompt and its response: the two texts joined, or the chat with a message of the assistant.

    What a policy says begins and ends with white space of its chat template; the content of a message does not.
    """
    if isinstance(prompt, str):
        return prompt + response
    return [*prompt, {"role": "assistant", "content": response.strip()}]


def plain_texts(prompts: Sequence[TextOrChat], responses: Sequence[str]) -> list[str]:
    """Each prompt with its response as one plain text."""
    pairs = zip(prompts, responses, strict=True)
    return [plain_text(with_response(prompt, response)) for prompt, response in pairs]


def set_chat_template(tokenizer: Any, choice: str) -> Any:
    """The tokenizer with the chat template of `model.chat_template`; what is saved with a policy carries it.

    choice: `auto` for the tokenizer's own, one of `TEMPLATES`, or the path of a jinja file. Raises UserError for a file
    that cannot be read.
    """
    if choice != "auto":
        tokenizer.chat_template = TEMPLATES.get(choice) or read_text(Path(choice))
    return tokenizer


def has_own_template(tokenizer: Any) -> bool:
    """Whether chats are rendered by a template with special tokens: not as transcripts or bare contents."""
    return bool(getattr(tokenizer, "chat_template", None)) and tokenizer.chat_template not in TEMPLATES.values()


def turn_end(tokenizer: Any) -> str:
    """What the chat template puts behind the content of a last message of the assistant; empty without a template.

    >>> from types import SimpleNamespace
    >>> turn_end(SimpleNamespace(chat_template=None))
    ''
    """
    if not getattr(tokenizer, "chat_template", None):
        return ""
    chat = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "probe"}]
    try:
        return tokenizer.apply_chat_template(chat, tokenize=False).rpartition("probe")[2]
    except (TemplateError, TypeError, ValueError, KeyError):
        return ""


def end_of_turn_id(tokenizer: Any) -> int:
    """The token that ends a response rendered by the chat template: the first special one behind the content."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    ids = tokenizer(turn_end(tokenizer), add_special_tokens=False)["input_ids"]
    return next((token for token in ids if token in special), tokenizer.eos_token_id)


class ChatRenderer:
    """Renders chats with the chat template of a tokenizer.

    template_options: further variables of the template, as {"enable_thinking": False}. add_generation_prompt: whether a
    prompt ends with what the template puts in front of an answer. `unread` has, after use, the fields of messages
    that the template did not read, each with the place of the first.
    """

    def __init__(
        self, tokenizer: Any, template_options: Mapping[str, Any] | None = None, add_generation_prompt: bool = True
    ):
        self.tokenizer, self.add_generation_prompt = tokenizer, add_generation_prompt
        self.options = dict(template_options or {})
        self.rendered = has_own_template(tokenizer)
        self._read: set[str] = set()
        self._unread: dict[str, str] = {}
        end = end_of_turn_id(tokenizer) if self.rendered else None  # the tokenizer of a reward model may have none
        self._end = "" if end is None else tokenizer.decode([end])
        self._turn_end = turn_end(tokenizer)

    @property
    def unread(self) -> dict[str, str]:
        """Field of messages -> place of the first, for fields that never changed what the template makes."""
        return {name: place for name, place in self._unread.items() if name not in self._read}

    def render_prompt(self, messages: Sequence[Message], place: str, tools: Sequence[Any] | None = None) -> str:
        """The text of a prompt. Raises UserError, naming `place`, for messages that the template does not take."""
        return self._apply(messages, place, tools, self.add_generation_prompt)

    def render_response(
        self,
        messages: Sequence[Message],
        prompt: str,
        response: Message,
        place: str,
        tools: Sequence[Any] | None = None,
    ) -> str:
        """The text of a response to messages that were rendered as `prompt`, without the token that ends its turn.

        Raises UserError, naming `place`, where the template renders the prompt otherwise if a response follows.
        """
        chat = [*messages, response]
        full_text = self._apply(chat, place, tools, False)
        self._note_unread(chat, place, tools, full_text)
        if not full_text.startswith(prompt):
            raise UserError(
                f"{place}: the chat template renders the messages before the response as "
                f"...{_excerpt(full_text, prompt)}, and as a prompt ...{_excerpt(prompt, full_text)}; set "
                "model.add_generation_prompt: false, or model.chat_template_kwargs, so that both agree"
            )
        text = full_text[len(prompt) :]
        if self._end and self._end in self._turn_end and text.endswith(self._turn_end):
            text = text[: len(text) - len(self._turn_end)] + self._turn_end[: self._turn_end.index(self._end)]
        return text

    def _apply(self, messages: Sequence[Message], place: str, tools: Any, add_generation_prompt: bool) -> str:
        if not getattr(self.tokenizer, "chat_template", None):
            raise UserError(
                f"{place}: the data are chats, and the model's tokenizer has no chat template; set "
                f"model.chat_template to {CHOICES}"
            )
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                tools=tools,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self.options,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise UserError(
                f"{place}: the chat template does not take these messages: {one_line(str(error), 200)}"
            ) from None
        if add_generation_prompt and messages[-1]["role"] == "assistant":
            raise UserError(f"{place}: a prompt must end with a turn of the user or of a tool, not of the assistant")
        return text

    def _note_unread(self, chat: Sequence[Message], place: str, tools: Any, whole: str) -> None:
        """Note fields without which the template makes the same text."""
        for name in {name for message in chat for name in message if message[name] is not None} - self._read:
            if name in ("role", "content"):
                continue
            without = [{key: value for key, value in message.items() if key != name} for message in chat]
            try:
                changed = self._apply(without, place, tools, False) != whole
            except UserError:
                changed = True
            if changed:
                self._read.add(name)
            else:
                self._unread.setdefault(name, place)


def _excerpt(text: str, other: str) -> str:
    """The part of a text where it begins to differ from the other."""
    start = len(commonprefix([text, other]))
    return one_line(repr(text[max(0, start - 20) : start + 20]), 100)
