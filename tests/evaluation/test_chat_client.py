"""The judge's chat client and its cache against a server on this machine that also misbehaves."""

import json
import logging
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sparsepo.evaluation.chat_client import ChatClient
from sparsepo.evaluation.completions import Answer
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.result_cache import ResultCache, request_key
from sparsepo.runtime.secrets import split_url

KEY = "sk-very/secret-0123456789"


class Server(ThreadingHTTPServer):
    """Answers "re: <question>", but first follows `script`, one entry a request: (status, headers, body) or a word."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.requests, self.release = [], [], threading.Event()
        self.lock, self.together, self.most = threading.Lock(), 0, 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_) -> None:
        """A client that has gone is what the tests are about."""

    @property
    def questions(self) -> list[str]:
        return [body["messages"][0]["content"] for _, _, body in self.requests]


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, self.headers, body))
            entry = self.server.script.pop(0) if self.server.script else "answer"
            self.server.together += 1
            self.server.most = max(self.server.most, self.server.together)
        if entry == "silence":
            self.server.release.wait(10)
        if entry == "slow":
            time.sleep(0.05)
        with self.server.lock:
            self.server.together -= 1
        if entry == "hang up":
            return self.connection.close()
        whole = reply(f"re: {body['messages'][0]['content']}")
        status, headers, content = entry if isinstance(entry, tuple) else (200, {}, whole)
        self.send_response(status)
        for name, value in ({"Content-Length": len(content)} | headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if entry == "half" else content)

    def log_message(self, *_) -> None:
        pass


def reply(content, finish_reason="stop", **message) -> bytes:
    message = {"role": "assistant", "content": content} | message
    return json.dumps({"choices": [{"message": message, "finish_reason": finish_reason}]}).encode()


def error(message: str, **details) -> bytes:
    return json.dumps({"error": {"message": message} | details}).encode()


def texts(client: ChatClient, questions) -> list[str]:
    return [answer.text for answer in client.answers(questions)]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("A_KEY", KEY)
    with running() as made:
        yield made


@contextmanager
def running():
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.release.set()
    made.shutdown()
    made.server_close()
    thread.join()


def client(server: Server, folder: Path, **changed) -> ChatClient:
    settings = {"url": server.url, "api_key_env": "A_KEY", "retries": 1, "timeout": 5.0, "max_concurrency": 1}
    settings |= {"model": "m", "max_tokens": 9, "cache": ResultCache(folder / "answers.jsonl")}
    return ChatClient(**(settings | changed))


def test_answers_come_in_the_order_of_the_questions_and_equal_questions_are_asked_once(server, tmp_path):
    asked = [f"q{i % 7}" for i in range(20)]
    assert texts(client(server, tmp_path, max_concurrency=4), asked) == [f"re: {text}" for text in asked]
    assert sorted(server.questions) == [f"q{i}" for i in range(7)]


def test_a_question_is_one_message_of_the_user_at_temperature_zero(server, tmp_path):
    client(server, tmp_path).answers(["é"])
    ((path, headers, body),) = server.requests
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    messages = [{"role": "user", "content": "é"}]
    assert body == {"model": "m", "messages": messages, "temperature": 0, "max_tokens": 9}


def test_no_more_than_max_concurrency_requests_are_under_way(server, tmp_path):
    server.script = ["slow"] * 6
    client(server, tmp_path, max_concurrency=2).answers("abcdef")
    assert server.most == 2


def test_a_second_run_costs_no_request_wherever_the_model_moved_and_needs_no_key(server, tmp_path, monkeypatch):
    first = client(server, tmp_path).answers(["a", "b é"])
    monkeypatch.delenv("A_KEY")
    again = client(server, tmp_path, url="http://127.0.0.1:9/elsewhere").answers(["a", "b é"])
    assert again == first and len(server.requests) == 2
    with pytest.raises(UserError, match="'A_KEY', for the key of the judge endpoint, is not set"):
        client(server, tmp_path, max_tokens=10).answers(["a"])


MISBEHAVIOUR = {
    "rate limit": (429, {}, b"{}"),
    "server error": (500, {}, b"oops"),
    "garbage": (200, {}, b"<html>busy</html>"),
    "other JSON": (200, {}, b'{"error": {"message": "overloaded"}}'),
    "no choices": (200, {}, b'{"choices": []}'),
    "a number as text": (200, {}, b'{"choices": [{"message": {"content": 7}}]}'),
    "nested": (200, {}, b"[" * 100_000),
    "not UTF-8": (200, {}, b"\xff\xfe"),
    "half": "half",
    "hang up": "hang up",
}


@pytest.mark.parametrize("entry", MISBEHAVIOUR.values(), ids=MISBEHAVIOUR)
def test_what_may_pass_is_tried_again_and_only_the_good_answer_is_kept(server, tmp_path, entry):
    server.script = [entry]
    assert texts(client(server, tmp_path), ["a"]) == ["re: a"]
    assert len(server.requests) == 2
    assert [json.loads(line)["answer"]["text"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()] == [
        "re: a"
    ]


def test_a_silent_server_is_tried_again_after_the_timeout(server, tmp_path):
    server.script = ["silence"]
    assert texts(client(server, tmp_path, timeout=0.1), ["a"]) == ["re: a"]
    server.script = ["silence"] * 2
    with pytest.raises(UserError, match=r"failed \(no answer within 0\.1 s\), retries: 1; 1 answers are kept"):
        client(server, tmp_path, timeout=0.1).answers(["b"])


def test_retry_after_is_waited_for(server, tmp_path):
    server.script, start = [(429, {"Retry-After": "2"}, b"")], time.monotonic()
    client(server, tmp_path).answers(["a"])
    assert time.monotonic() - start > 1.9


def test_a_server_that_asks_for_an_hour_is_told_at_once(server, tmp_path):
    server.script = [(429, {"Retry-After": "3600"}, b'{"error": {"message": "quota"}}')]
    with pytest.raises(UserError, match=r"quota, Retry-After: 3600\), retries: 1; 0 answers are kept"):
        client(server, tmp_path).answers(["a"])
    assert len(server.requests) == 1


def test_when_retries_are_used_up_the_reason_is_told_and_answers_stay(server, tmp_path):
    server.script = ["answer", "answer", *[(503, {}, b'{"error": {"message": "over\\nloaded"}}')] * 2]
    with pytest.raises(UserError, match=r"503 - over\\nloaded\), retries: 1; 2 answers are kept in .*answers.jsonl"):
        client(server, tmp_path).answers("abcd")
    assert texts(client(server, tmp_path), "abcd") == ["re: a", "re: b", "re: c", "re: d"]
    assert server.questions == [*"ab", *"cc", *"cd"]


@pytest.mark.parametrize(
    ("status", "action"),
    [
        (400, "the request is refused"),
        (401, "the key is not accepted"),
        (403, "the key is not allowed to do this"),
        (404, "no such address or model"),
        (302, "the address has moved"),
    ],
)
def test_a_refusal_fails_at_once_and_follows_no_redirect(server, tmp_path, status, action):
    with running() as other:
        headers = {"Location": other.url} if status == 302 else {}
        server.script = [(status, headers, b'{"error": {"message": "no"}}')] * 9
        with pytest.raises(UserError, match=rf"{action}.*{status} - no\); model 'm'"):
            client(server, tmp_path).answers("ab")
        assert len(server.requests) == 1 and other.requests == []


def test_a_key_that_the_server_repeats_is_never_printed_cached_or_put_into_a_message(server, tmp_path, capfd, caplog):
    caplog.set_level(logging.DEBUG)
    said = f"Incorrect key {KEY}"
    server.script = [
        (200, {}, reply(f"your key is {KEY}")),
        (401, {}, json.dumps({"error": {"message": said}}).encode()),
        (401, {}, json.dumps({"error": {"message": f"{'x' * 165} {said}"}}).encode()),
        (500, {}, json.dumps({"error": {"message": said}}).encode()),
        (200, {}, said.encode()),
    ]
    assert texts(client(server, tmp_path), ["a"]) == ["your key is [key]"]
    for _ in range(2):
        with pytest.raises(UserError, match="the key is not accepted") as refused:
            client(server, tmp_path).answers(["b"])
        assert KEY[:8] not in str(refused.value) and refused.value.__suppress_context__
    for _ in range(2):
        with pytest.raises(UserError, match="retries: 0") as failed:
            client(server, tmp_path, retries=0).answers(["b"])
        assert KEY[:8] not in str(failed.value)
    seen = "".join(capfd.readouterr()) + caplog.text + repr(client(server, tmp_path))
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.*"))
    assert KEY not in seen + kept and "[key]" in kept and server.script == []


def test_a_key_that_is_no_text_is_refused_without_showing_it(server, tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", f"{KEY}\nX: y")
    with pytest.raises(UserError, match="'A_KEY' holds no key") as refused:
        client(server, tmp_path).answers(["a"])
    assert KEY not in str(refused.value)
    monkeypatch.setenv("A_KEY", f" {KEY}\n")
    client(server, tmp_path).answers(["a"])
    assert server.requests[0][1]["Authorization"] == f"Bearer {KEY}"


def test_no_other_key_is_sent_whatever_the_environment_holds(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "another-key")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "authorization: Bearer another-key")
    client(server, tmp_path, api_key_env=None).answers(["a"])
    client(server, tmp_path).answers(["b"])
    assert [headers.get_all("Authorization") for _, headers, _ in server.requests] == [None, [f"Bearer {KEY}"]]


COMPLETIONS = {
    "null": (reply(None), "", "stop"),
    "a text": (reply("[[A]]"), "[[A]]", "stop"),
    "cut off": (reply("half [[A]]", "length"), "half [[A]]", "length"),
    "filtered, without a message": (b'{"choices": [{"finish_reason": "content_filter"}]}', "", "content_filter"),
    "filtered, without content": (
        b'{"choices": [{"finish_reason": "content_filter", "message": {}}]}',
        "",
        "content_filter",
    ),
    "no finish_reason": (b'{"choices": [{"message": {"content": "[[A]]"}}]}', "[[A]]", "None"),
    "a refusal": (reply(None, refusal="I decline"), "I decline", "refusal"),
    "reasoning in tags": (reply("<think>[[A]]?\nno</think>\n\n[[B]]"), "[[B]]", "stop"),
    "reasoning without a start tag": (reply("so [[A]]\n</think>[[B]]"), "[[B]]", "stop"),
    "reasoning without an end": (reply("<think>\nfirst [[A]]"), "", "stop"),
    "reasoning in brackets": (reply("[THINK]the [[A]][/THINK]\n[[C]]"), "[[C]]", "stop"),
    "reasoning beside": (reply("[[B]]", reasoning_content="[[A]]"), "[[B]]", "stop"),
    "reasoning alone": (reply(None, reasoning_content="[[A]]"), "", "stop"),
    "parts": (
        reply([
            {"type": "thinking", "thinking": [{"type": "text", "text": "[[A]]"}]},
            {"type": "text", "text": "I say "},
            {"type": "text", "text": "[[B]]"},
        ]),
        "I say [[B]]",
        "stop",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", COMPLETIONS.values(), ids=COMPLETIONS)
def test_an_answer_is_its_text_after_the_reasoning_with_the_reason_of_its_end(server, tmp_path, case):
    body, text, finish_reason = case
    server.script = [(200, {}, body)]
    assert client(server, tmp_path).answers(["a"]) == [Answer(text, finish_reason)]
    assert client(server, tmp_path).answers(["a"]) == [Answer(text, finish_reason)]
    assert len(server.requests) == 1


NO_MAX_TOKENS = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
)
NO_TEMPERATURE = [
    "Unsupported value: 'temperature' does not support 0 with this model.",
    "`temperature` may only be set to 1 when thinking is enabled",
    "invalid temperature: only 1 is allowed for this model",
]


@pytest.mark.parametrize("message", NO_TEMPERATURE)
@pytest.mark.parametrize("max_concurrency", [1, 4])
def test_a_model_that_takes_no_max_tokens_and_no_temperature_is_asked_without(
    server, tmp_path, max_concurrency, message
):
    server.script = [(400, {}, error(NO_MAX_TOKENS)), (400, {}, error(message))]
    made = client(server, tmp_path, max_concurrency=max_concurrency)
    assert sorted(texts(made, "abcd")) == [f"re: {text}" for text in "abcd"]
    assert texts(made, "ef") == ["re: e", "re: f"]
    last = server.requests[-1][2]
    assert last.keys() == {"model", "messages", "max_completion_tokens"} and last["max_completion_tokens"] == 9
    assert [answer.at_temperature_0 for answer in made.answers("f")] == [False]


def test_a_limit_that_is_too_high_is_refused_not_dropped(server, tmp_path):
    server.script = [(400, {}, error("max_tokens is too large: 9. This model supports at most 4 completion tokens"))]
    with pytest.raises(UserError, match="the request is refused .*max_tokens is too large"):
        client(server, tmp_path).answers(["a"])


REFUSED_QUESTIONS = {
    "filter": (400, error("The response was filtered by the content management policy", code="content_filter")),
    "code alone": (400, error("no", code="content_filter")),
    "length": (400, error("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens")),
    "too long": (400, error("prompt is too long: 210000 tokens > 200000 maximum")),
    "code of the length": (400, error("no", code="context_length_exceeded")),
    "moderation": (403, error("the model requires moderation, and your input was flagged")),
}


@pytest.mark.parametrize("case", REFUSED_QUESTIONS.values(), ids=REFUSED_QUESTIONS)
def test_a_question_that_the_service_refuses_has_no_answer_and_the_others_go_on(server, tmp_path, case):
    status, body = case
    server.script = ["answer", (status, {}, body)]
    first, refused, last = client(server, tmp_path).answers("abc")
    assert (first.text, last.text) == ("re: a", "re: c")
    assert refused.is_refused and refused.text.endswith(json.loads(body)["error"]["message"])
    assert texts(client(server, tmp_path), "b") == ["re: b"]  # asked again by the next run


def test_a_text_of_the_cache_without_its_finish_reason_is_asked_again(server, tmp_path):
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}], "temperature": 0, "max_tokens": 9}
    ResultCache(tmp_path / "answers.jsonl")[request_key(body)] = "[[A]] of an earlier version"
    assert texts(client(server, tmp_path), "a") == ["re: a"]


def test_a_url_may_end_in_chat_completions_and_hold_a_query(server, tmp_path):
    client(server, tmp_path, url=f"{server.url}/chat/completions?api-version=2#x").answers(["a"])
    client(server, tmp_path, url=f"{server.url}/").answers(["b"])
    assert [path for path, _, _ in server.requests] == [
        "/v1/chat/completions?api-version=2",
        "/v1/chat/completions",
    ]


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "api.openai.com/v1", "http://", "http://h:port", "http://a..b", "http://a b", ""],
)
def test_what_is_no_http_address_is_refused(url):
    with pytest.raises(UserError, match="is no address"):
        split_url(url)


def test_a_login_in_a_url_is_refused_without_showing_it():
    with pytest.raises(UserError, match="holds a login") as refused:
        split_url(f"https://me:{KEY[:8]}@h/v1")
    assert KEY[:8] not in str(refused.value)


def test_a_server_that_is_not_there_is_told_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running() as gone:
        pass
    with pytest.raises(UserError, match=r"127\.0\.0\.1:\d+/v1/chat/completions failed \(.*refused\), retries: 0"):
        client(gone, tmp_path, api_key_env=None, retries=0).answers(["a"])


def test_a_run_that_is_killed_keeps_its_answers(server, tmp_path):
    server.script = ["answer", "answer", "silence"]
    code = f"""
from pathlib import Path
from sparsepo.evaluation.chat_client import ChatClient
from sparsepo.runtime.result_cache import ResultCache
ChatClient({server.url!r}, "m", 9, None, 3, 60.0, 1, ResultCache(Path({str(tmp_path / "answers.jsonl")!r}))).answers(
    "abcd"
)
"""
    with subprocess.Popen([sys.executable, "-c", code]) as killed:
        while len(server.requests) < 3 and killed.poll() is None:
            time.sleep(0.01)
        killed.kill()
    server.release.set()
    assert texts(client(server, tmp_path), "abcd") == [f"re: {text}" for text in "abcd"]
    assert server.questions == [*"abc", *"cd"]
