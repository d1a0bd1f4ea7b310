"""A chat model behind an OpenAI-compatible address, asked politely: in parallel, with back-off, each question once."""

import json
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException, IncompleteRead
from threading import Event
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from sparsepo.runtime.errors import UserError
from sparsepo.runtime.progress import progress
from sparsepo.runtime.result_cache import ResultCache, key_of

BACK_OFF = 60.0  # seconds that we wait at most of our own accord
PATIENCE = 300.0  # seconds that we wait at most when the server asks for it
BUSY = {408, 409, 425, 429}  # a later try may succeed; so may it after any 5xx
SECRET = 8  # characters: a shorter key is a stand-in for a server that wants none
MALFORMED = (ValueError, LookupError, TypeError, RecursionError)  # JSON that is none, or has another shape

HINTS = dict.fromkeys((301, 302, 303, 307, 308), "the address has moved; 'url' must be the new one") | {
    401: "the key is not accepted",
    403: "the key may not do this",
    404: "there is no such address or model; 'url' is what comes before /chat/completions",
}


@dataclass(frozen=True)
class Endpoint:
    """POST {url}/chat/completions, by `max_concurrency` threads; what was answered stays in `cache`.

    `api_key_env` names the environment variable of the key (None: no key is sent), read when something is asked and
    kept nowhere. `timeout` is in seconds of silence. A busy or broken server (408, 409, 425, 429, 5xx, timeouts, broken
    connections, garbage) is asked again up to `retries` times, after 2^n seconds less a random part or what Retry-After
    says. `sleep` takes seconds.
    """

    url: str
    api_key_env: str | None
    retries: int
    timeout: float
    max_concurrency: int
    cache: ResultCache
    sleep: Callable[[float], Any] | None = None

    def answers(self, bodies: Sequence[dict[str, Any]]) -> list[str]:
        """The text of the answer to each request body; a null one is empty. Equal bodies are asked once.

        Raises UserError when the server refuses (any other status), when it fails too often or asks for more than five
        minutes, and without the key. All answers received until then are kept.
        """
        keys = [key_of(body) for body in bodies]
        missing = {key: body for key, body in zip(keys, bodies, strict=True) if key not in self.cache}
        if missing:
            self._ask(missing)
        return [self.cache[key] for key in keys]

    def _ask(self, missing: dict[str, dict[str, Any]]) -> None:
        address, secret, stop = chat_address(self.url), read_key(self.api_key_env), Event()

        def ask(key: str, body: dict[str, Any]) -> None:
            if stop.is_set():
                return
            try:
                self.cache[key] = self._patiently(address, body, secret, stop)
            except BaseException:  # here, as this thread is free for the next question before anyone hears of it
                stop.set()
                raise

        with ThreadPoolExecutor(self.max_concurrency) as pool:
            waiting = [pool.submit(ask, key, body) for key, body in missing.items()]
            try:
                for future in progress(as_completed(waiting), len(waiting), "judge"):
                    future.result()
            finally:  # Ctrl-C, too, ends with what is under way
                stop.set()

    def _patiently(self, address: SplitResult, body: dict[str, Any], secret: str, stop: Event) -> str:
        for tried in range(self.retries + 1):
            try:
                return post(address, body, secret, self.timeout)
            except Busy as busy:
                reason, asked = busy.reason, busy.wait
            if asked > PATIENCE:
                raise UserError(f"{shown(address)} wants us to wait {asked:,.0f} s ({reason}); {self._kept()}")
            if tried < self.retries and not stop.is_set():
                (self.sleep or stop.wait)(max(asked, back_off(tried)))
            if stop.is_set():
                break
        raise UserError(f"{shown(address)} failed {tried + 1} times, at last with {reason}; {self._kept()}")

    def _kept(self) -> str:
        return f"{len(self.cache)} answers are kept in {self.cache.path}, so a new start goes on from there"


class Busy(Exception):
    """A failure that may pass: why, and the seconds that the server asked us to wait (0: it did not)."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.reason, self.wait = reason, wait


class _Stay(HTTPRedirectHandler):
    """Follows no redirect: urllib would take the key along to wherever it leads."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = build_opener(_Stay)


def post(address: SplitResult, body: dict[str, Any], secret: str, timeout: float) -> str:
    """One request. Raises Busy for what may pass and UserError for what will not; nothing it says holds the secret."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {secret}"} if secret else {})
    request = Request(address.geturl(), json.dumps(body).encode(), headers, method="POST")
    try:
        with _OPENER.open(request, timeout=timeout) as response:
            return _content(_read(response, secret))
    except HTTPError as error:
        with error:
            reason, wait = f"status {error.code}{_detail(error, secret)}", retry_after(error.headers["Retry-After"])
        if error.code in BUSY or error.code >= 500:
            raise Busy(reason, wait) from None
        hint = HINTS.get(error.code, "the request is refused")
        raise UserError(f"{shown(address)}: {hint} ({reason}); model '{body['model']}'") from None
    except TimeoutError:
        raise Busy(f"no answer within {timeout:g} s") from None
    except IncompleteRead:
        raise Busy("an answer that breaks off") from None
    except (OSError, HTTPException) as error:
        cause = error.reason if isinstance(error, URLError) else error
        raise Busy(hidden(_one_line(str(cause)), secret) or type(cause).__name__) from None


def _read(response: IO[bytes], secret: str) -> str:
    return hidden(response.read().decode(errors="replace"), secret)


def _content(reply: str) -> str:
    """choices[0].message.content. Raises Busy for anything else: servers send error pages and half replies as 200."""
    with suppress(*MALFORMED):
        content = json.loads(reply)["choices"][0]["message"]["content"]
        if content is None or isinstance(content, str):
            return content or ""
    raise Busy(f"an answer that is no chat completion: {_one_line(reply)!r}")


def _detail(error: HTTPError, secret: str) -> str:
    """What the server says of its refusal, as far as it can be read."""
    said = ""
    with suppress(OSError, HTTPException, *MALFORMED):
        said = _read(error, secret)
        said = str(json.loads(said)["error"]["message"])
    return f": {_one_line(said)}" if said.strip() else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())[:200]


def back_off(tried: int) -> float:
    """Between half of 2^tried seconds and all of them, at most a minute: clients that failed together part."""
    return min(BACK_OFF, 2.0 ** min(tried, 10)) * random.uniform(0.5, 1.0)


def retry_after(header: str | None) -> float:
    """Seconds from now of a Retry-After header, which is a number or a date (RFC 9110); 0 without, or unreadable."""
    with suppress(ValueError):
        return max(0.0, float(header or 0))
    with suppress(ValueError, OverflowError):
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    return 0.0


def chat_address(url: str) -> SplitResult:
    """{url}/chat/completions, its query kept. Raises UserError for what is no http(s) address, or holds a login."""
    if "@" in url.partition("?")[0]:
        raise UserError("judge url holds a login ('@'), not only an address; a key belongs in an environment variable")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
        known = parts.scheme in ("http", "https") and host.encode("idna") and url.isascii() and len(url.split()) == 1
    except ValueError:
        known = False
    if not known:
        raise UserError(f"judge url '{url}' is no address; one like https://api.openai.com/v1 is expected")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return parts._replace(path=f"{path}/chat/completions", fragment="")


def shown(address: SplitResult) -> str:
    """The address for a message, without its query, which may hold a key."""
    return f"judge endpoint {address._replace(query='').geturl()}"


def read_key(variable: str | None) -> str:
    """The key, without blanks around it; empty for no variable. UserError for a variable unset, or not plain text."""
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"environment variable '{variable}', for the key of the judge endpoint, is not set")
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"environment variable '{variable}' holds no key: a line break or a character not in ASCII")
    return key


def hidden(text: str, secret: str) -> str:
    """`text` without the secret, which some servers repeat."""
    return text.replace(secret, "[key]") if len(secret) >= SECRET else text
