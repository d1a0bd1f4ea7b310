"""A chat model behind an OpenAI-compatible URL, asked in parallel by the client of OpenAI, each question once."""

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from threading import Event
from typing import Any

from sparsepo.evaluation.completions import (
    REFUSED,
    UNSUPPORTED,
    Answer,
    read_completion,
    refusal_of_question,
    require_completion,
)
from sparsepo.runtime.errors import UserError, one_line
from sparsepo.runtime.progress import progress
from sparsepo.runtime.result_cache import ResultCache, request_key
from sparsepo.runtime.secrets import PATH, hide_key, is_sent_in_the_clear, read_api_key, split_url

TEMPORARY = (408, 409, 429)  # and 5xx: status of what the client of OpenAI tries again
REASON_LENGTH, FINISH_LENGTH = 200, 40  # characters

REFUSALS = dict.fromkeys((301, 302, 303, 307, 308), "the address has moved; 'url' must be the new one") | {
    401: "the key is not accepted",
    403: "the key is not allowed to do this",
    404: f"there is no such address or model; 'url' is what comes before {PATH}",
}
"""Status -> what the user can do about it."""


@dataclass(frozen=True)
class ChatClient:
    """POST {url}/chat/completions from `max_concurrency` threads, at temperature 0; answers are kept in `cache`.

    A model that refuses `max_tokens` is asked with `max_completion_tokens`, one that refuses a temperature without it.

    `api_key_env` names the environment variable of the key (None: no key is sent). The key is read when a question is
    sent, and stored nowhere. `timeout` is that of a whole request, in seconds. Temporary failures
    (status 408, 409, 429 and 5xx, time-outs, broken connections, replies that are no chat completion) are tried again
    up to `retries` times, after a time that grows or that Retry-After gives. No redirect is followed.
    """

    url: str
    model: str
    max_tokens: int
    api_key_env: str | None
    retries: int
    timeout: float
    max_concurrency: int
    cache: ResultCache
    unsupported: set[str] = field(default_factory=set)
    """Parameters that the model has refused."""

    def answers(self, questions: Sequence[str]) -> list[Answer]:
        """The answer to each question. Equal questions are sent once.

        A question that the service refuses (a content filter, too long) has the reason as its answer, not cached.
        Raises UserError for a URL that cannot be used, without the key, when the server refuses any request, and when
        the retries are used up. Answers received until then stay in the cache.
        """
        settings = {"model": self.model, "temperature": 0, "max_tokens": self.max_tokens}
        requests = [{"messages": [{"role": "user", "content": question}], **settings} for question in questions]
        keys = [request_key(request) for request in requests]
        missing = {
            key: request
            for key, request in zip(keys, requests, strict=True)
            if not isinstance(self.cache.get(key), dict)  # earlier versions kept a text, without its finish_reason
        }
        refused = self._send(missing) if missing else {}
        return [refused[key] if key in refused else Answer(**self.cache[key]) for key in keys]

    def _send(self, requests: dict[str, dict[str, Any]]) -> dict[str, Answer]:
        """Send the requests, by their key in the cache. Returns the answers to those that the service refuses."""
        from openai import APIError, APIStatusError, omit

        api_key, stop, refused = read_api_key(self.api_key_env), Event(), {}
        if api_key and is_sent_in_the_clear(self.url):
            where = split_url(self.url)[0]
            print(f"warning: the key is sent to {where} without encryption; use an https address", file=sys.stderr)
        headers = {"Authorization": f"Bearer {api_key}" if api_key else omit}  # whatever the environment says

        def send(cache_key: str, request: dict[str, Any]) -> None:
            if stop.is_set():
                return
            try:
                supported = self._supported(request)
                reply = client.chat.completions.with_raw_response.create(**supported, extra_headers=headers)
                text, finish_reason = read_completion(reply.http_response.json())
                finish_reason = one_line(hide_key(finish_reason, api_key), FINISH_LENGTH)
                answer = Answer(hide_key(text, api_key), finish_reason, "temperature" in supported)
                self.cache[cache_key] = asdict(answer)
            except APIStatusError as error:
                if self._note_unsupported(error, supported):
                    return send(cache_key, request)
                reason = refusal_of_question(error)
                if not reason:
                    stop.set()
                    raise
                refused[cache_key] = Answer(one_line(hide_key(reason, api_key), REASON_LENGTH), REFUSED)
            except BaseException:
                stop.set()  # here: this thread takes the next request before the main thread sees the error
                raise

        with self._open(api_key) as client, ThreadPoolExecutor(self.max_concurrency) as pool:
            futures = [pool.submit(send, *item) for item in requests.items()]
            try:
                for future in progress(as_completed(futures), len(futures), "judge"):
                    future.result()
            except APIError as error:
                raise UserError(self._error_line(error, api_key)) from None
            finally:  # also after Ctrl-C: no further request is sent
                stop.set()
        return refused

    def _supported(self, request: dict[str, Any]) -> dict[str, Any]:
        """The request without what the model has refused."""
        supported = {name: value for name, value in request.items() if name not in self.unsupported}
        if "max_tokens" in self.unsupported:
            supported["max_completion_tokens"] = request["max_tokens"]
        return supported

    def _note_unsupported(self, error: Any, sent: dict[str, Any]) -> bool:
        """Whether the error says that the model takes no `max_tokens` or no temperature that was sent with it."""
        refuses = error.status_code in (400, 422) and UNSUPPORTED.search(error.message)
        named = [name for name in ("max_tokens", "temperature") if name in sent and name in error.message.lower()]
        self.unsupported.update(named if refuses else ())
        return bool(refuses and named)

    def _open(self, api_key: str) -> Any:
        from openai import DefaultHttpxClient, OpenAI

        from sparsepo.evaluation.bounded_http import HEADERS, NO_REUSE, read_bounded, start_deadline

        def start(request: Any) -> None:
            start_deadline(request, self.timeout)

        hooks = {"request": [start], "response": [read_bounded, require_completion]}
        base_url, query = split_url(self.url)
        return OpenAI(
            base_url=base_url,
            default_query=query,
            api_key=api_key or "none",
            max_retries=self.retries,
            timeout=self.timeout,
            default_headers=HEADERS,
            http_client=DefaultHttpxClient(follow_redirects=False, limits=NO_REUSE, event_hooks=hooks),
        )

    def _error_line(self, error: Any, api_key: str) -> str:
        from openai import APIStatusError, APITimeoutError

        from sparsepo.evaluation.bounded_http import is_over

        server, reason, status = f"judge endpoint {split_url(self.url)[0]}{PATH}", str(error.__cause__ or error), 0
        if isinstance(error, APITimeoutError) or is_over(error.request):
            reason = f"no answer within {self.timeout:g} s"
        elif isinstance(error, APIStatusError):
            status, wait = error.status_code, error.response.headers.get("Retry-After")
            reason = error.message + (f", Retry-After: {wait}" if wait else "")
        reason = one_line(hide_key(reason, api_key), REASON_LENGTH)  # in this order: no half of a key is left
        if 0 < status < 500 and status not in TEMPORARY:
            action = REFUSALS.get(status, "the request is refused")
            return f"{server}: {action} ({reason}); model '{self.model}'"
        kept = f"{len(self.cache)} answers are kept in {self.cache.path}, and a new start continues from there"
        return f"{server} failed ({reason}), retries: {self.retries}; {kept}"
