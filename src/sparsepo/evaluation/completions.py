"""What chat completions and errors of OpenAI-compatible services say: the answer, its end, and what was refused."""

import re
from dataclasses import dataclass
from typing import Any

QUESTION_REFUSED = re.compile(
    r"content.?(filter|policy|management)|responsible.?ai|moderation|flagged|safety|prohibited"
    r"|context.?(length|size|window)|(prompt|input|message|string)\w* .{0,20}(is|are) too (long|large)"
    r"|reduce the length|input.{0,40}tokens.{0,40}must be",
    re.I,
)
"""What an error of status 400, 403, 413 or 422 says that is about this question, not about all."""
UNSUPPORTED = re.compile(r"unsupported|not support|deprecated|not allowed|not permitted|may only be|only 1 is", re.I)
REASONING = ("think", "thinking", "thought", "reasoning")
"""Tags that models write around their reasoning, in <> or []."""
FINISHED = ("stop", "eos_token", "stop_sequence", "end_turn")
"""`finish_reason` of an answer that the model ended itself: of OpenAI, and as other servers call it."""
REFUSED = "refused"
"""In its place for a question that the service refuses."""


@dataclass(frozen=True)
class Answer:
    """The text of an answer, without reasoning, and why it ended; of a question that the service refuses, why it does.

    `at_temperature_0`: False where the model refuses a temperature.
    """

    text: str
    finish_reason: str
    at_temperature_0: bool = True

    @property
    def is_finished(self) -> bool:
        return self.finish_reason.lower() in FINISHED

    @property
    def is_refused(self) -> bool:
        return self.finish_reason == REFUSED


def require_completion(response: Any) -> None:
    """Turns a reply of status 200 that is no chat completion into a broken connection, so that the client tries again.

    Busy servers and proxies send error pages and half replies in this way.
    """
    from httpx2 import RemoteProtocolError

    if not response.is_success:
        return
    text = response.content.decode(errors="replace")
    try:
        read_completion(response.json())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise RemoteProtocolError(f"an answer that is no chat completion: {text!r}", request=response.request) from None


def read_completion(body: Any) -> tuple[str, str]:
    """(text without reasoning, finish_reason) of the JSON of a chat completion; without a text, as of null, "".

    The content is a text or a list of parts, of which those of type `text` count. A refusal of the model has the
    finish_reason "refusal". Raises ValueError, LookupError, TypeError or AttributeError for anything else.
    """
    choice = body["choices"][0]
    finish_reason, message = choice.get("finish_reason"), choice.get("message")
    if message is None and not finish_reason:
        raise ValueError("neither a message nor a finish_reason")
    content = (message or {}).get("content")
    if isinstance(content, list):
        parts = [{"type": "text", "text": part} if isinstance(part, str) else part for part in content]
        content = "".join(part["text"] for part in parts if part["type"] in ("text", "output_text"))
    if not isinstance(content, str | None):
        raise ValueError("the content is no text")
    if not content and (message or {}).get("refusal"):
        return str(message["refusal"]), "refusal"
    return without_reasoning(content or ""), str(finish_reason)


def without_reasoning(text: str) -> str:
    """What follows the last end tag of reasoning. Reasoning that does not end leaves nothing.

    The start tag may be missing, as where a chat template writes it.
    """
    tags = "|".join(REASONING)
    text = re.split(rf"(?:</(?:{tags})>|\[/(?:{tags})\])", text, flags=re.I)[-1]
    return re.split(rf"^\s*(?:<(?:{tags})>|\[(?:{tags})\])", text, maxsplit=1, flags=re.I)[0].strip()


def refusal_of_question(error: Any) -> str:
    """What a service says that refuses this question, but not every one; "" for any other error."""
    details = " ".join(str(value) for value in (error.code, error.type, error.message) if value)
    is_about_question = error.status_code in (400, 403, 413, 422) and QUESTION_REFUSED.search(details)
    return error.message if is_about_question else ""
