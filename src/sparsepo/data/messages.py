"""Chats as lists of messages, from the forms in which data have them: OpenAI's, ShareGPT's, transcripts of HH."""

import json
import re
from typing import Any

from sparsepo.data.hh_dialogues import ASSISTANT, HUMAN, split_dialogue
from sparsepo.data.records import Messages
from sparsepo.runtime.errors import UserError, format_value

Chat = str | Messages
"""A text or a list of messages."""

SHAREGPT_ROLES = {
    **{"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant"},
    **{"system": "system", "tool": "tool", "observation": "tool", "function_call": "assistant"},
}
"""`from` of a ShareGPT message -> role."""


def as_chat(value: Any, place: str) -> Chat:
    """A text as it is; one message, or several, as a list of messages with `role` and `content`.

    >>> as_chat({"from": "human", "value": "Hi", "weight": 1}, "here")
    [{'weight': 1, 'role': 'user', 'content': 'Hi'}]

    Raises UserError, naming `place`, for anything else.
    """
    chat = [value] if isinstance(value, dict) else value
    try:
        json.dumps(chat, ensure_ascii=False, allow_nan=False, default=str).encode("utf-8")
    except (ValueError, RecursionError):  # half of a surrogate pair, NaN
        raise UserError(f"{place} cannot be written as JSON: {format_value(value, 40)}") from None
    if isinstance(chat, str):
        return chat
    if not isinstance(chat, list) or not chat:
        raise UserError(f"{place} must be a text, a message or a list of messages, not {format_value(value, 40)}")
    return [_as_message(message, f"{place}[{index}]") for index, message in enumerate(chat)]


def as_messages(chat: Chat, role: str) -> Messages:
    """A chat; a text is a message of this role."""
    return [{"role": role, "content": chat}] if isinstance(chat, str) else chat


def _as_message(message: Any, place: str) -> dict[str, Any]:
    """A message with `role` and `content`; only one that calls tools may lack the content."""
    if isinstance(message, dict):
        if "role" not in message and {"from", "value"} <= message.keys():
            message = _from_sharegpt(message, place)
        content = message.get("content")
        is_text = isinstance(content, str) or _has_parts(content)
        has_content = is_text or (content is None and bool(message.get("tool_calls")))
        if isinstance(message.get("role"), str) and has_content:
            return message
    wanted = '{"role": ..., "content": ...} or {"from": ..., "value": ...}'
    raise UserError(f"{place} must be a message {wanted}, not {format_value(message, 60)}")


def _has_parts(content: Any) -> bool:
    """Whether this is a content of several parts, as templates of models for images take it."""
    return isinstance(content, list) and bool(content) and all(isinstance(x, dict) and "type" in x for x in content)


def _from_sharegpt(message: dict[str, Any], place: str) -> dict[str, Any]:
    """{"from", "value"} as {"role", "content"}; a `function_call`, which is JSON, as `tool_calls`."""
    name, value = str(message["from"]), message["value"]
    if name not in SHAREGPT_ROLES:
        raise UserError(f"{place} is from {format_value(name, 40)}; allowed: {', '.join(SHAREGPT_ROLES)}")
    others = {key: item for key, item in message.items() if key not in ("from", "value")}
    if name != "function_call":
        return others | {"role": SHAREGPT_ROLES[name], "content": value}
    try:
        calls = json.loads(value)
        calls = calls if isinstance(calls, list) else [calls]
        functions = [{"name": call["name"], "arguments": call.get("arguments", {})} for call in calls]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(f'{place}: a function_call must be JSON {{"name", "arguments"}}') from None
    tool_calls = [{"type": "function", "function": function} for function in functions]
    return others | {"role": "assistant", "content": "", "tool_calls": tool_calls}


def transcript_messages(dialogue: str, place: str) -> Messages:
    r"""The messages of a dialogue of Anthropic's HH, without the one space behind "Human:" and "Assistant:".

    >>> transcript_messages("\n\nHuman: Hi\n\nAssistant: Hello", "here")
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Hello'}]

    Raises UserError as `hh_dialogues.split_dialogue`.
    """
    split_dialogue(dialogue, place)
    _, *parts = re.split(f"({HUMAN}|{ASSISTANT})", dialogue)
    roles = {HUMAN: "user", ASSISTANT: "assistant"}
    return [
        {"role": roles[start], "content": text.removeprefix(" ")}
        for start, text in zip(parts[::2], parts[1::2], strict=True)
    ]
