"""The endpoint and its cache against a server on this machine that also misbehaves."""

import json
import random
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sparsepo.evaluation.chat_client import Endpoint, back_off, chat_address, retry_after
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.result_cache import ResultCache

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
            self.server.requests.append((self.path, dict(self.headers), body))
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


def reply(text: str | None) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


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


def endpoint(server: Server, folder: Path, naps: list[float] | None = None, **changed) -> Endpoint:
    given = {"url": server.url, "api_key_env": "A_KEY", "retries": 3, "timeout": 5.0, "max_concurrency": 1}
    cache = ResultCache(folder / "answers.jsonl")
    return Endpoint(cache=cache, sleep=([] if naps is None else naps).append, **(given | changed))


def bodies(*questions: str) -> list[dict]:
    return [{"model": "m", "messages": [{"role": "user", "content": text}], "temperature": 0} for text in questions]


def test_answers_come_in_the_order_of_the_questions_and_equal_questions_are_asked_once(server, tmp_path):
    asked = [f"q{i % 7}" for i in range(20)]
    assert endpoint(server, tmp_path, max_concurrency=4).answers(bodies(*asked)) == [f"re: {text}" for text in asked]
    assert sorted(server.questions) == [f"q{i}" for i in range(7)]
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {KEY}"
    assert body in bodies(*asked)


def test_no_more_than_parallel_requests_are_under_way(server, tmp_path):
    server.script = ["slow"] * 6
    endpoint(server, tmp_path, max_concurrency=2).answers(bodies(*"abcdef"))
    assert server.most == 2


def test_a_second_run_costs_no_request_wherever_the_model_moved_and_needs_no_key(server, tmp_path, monkeypatch):
    first = endpoint(server, tmp_path).answers(bodies("a", "b é \ud800"))
    monkeypatch.delenv("A_KEY")
    again = endpoint(server, tmp_path, url="http://127.0.0.1:9/elsewhere").answers(bodies("a", "b é \ud800"))
    assert again == first and len(server.requests) == 2
    changed = [body | {"temperature": 1} for body in bodies("a")]
    with pytest.raises(UserError, match="'A_KEY', for the key of the judge endpoint, is not set"):
        endpoint(server, tmp_path).answers(changed)


MISBEHAVIOUR = {
    "rate limit": (429, {}, b"{}"),
    "server error": (500, {}, b"oops"),
    "bad gateway": (502, {}, b"<html>"),
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
def test_what_may_pass_is_asked_again_and_only_the_good_answer_is_kept(server, tmp_path, entry):
    server.script, naps = [entry, entry], []
    assert endpoint(server, tmp_path, naps).answers(bodies("a")) == ["re: a"]
    assert len(server.requests) == 3 and len(naps) == 2
    assert [json.loads(line)["answer"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()] == ["re: a"]


def test_a_silent_server_is_asked_again_after_the_timeout(server, tmp_path):
    server.script = ["silence"]
    assert endpoint(server, tmp_path, timeout=0.1).answers(bodies("a")) == ["re: a"]
    server.script = ["silence"] * 2
    with pytest.raises(UserError, match=r"failed 2 times, at last with no answer within 0\.1 s; 1 answers are kept"):
        endpoint(server, tmp_path, timeout=0.1, retries=1).answers(bodies("b"))


def test_waits_double_up_to_a_minute_with_a_random_part(monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    assert [back_off(tried) for tried in (0, 1, 2, 5, 6, 5000)] == [1, 2, 4, 32, 60, 60]
    monkeypatch.undo()
    waits = [back_off(3) for _ in range(100)]
    assert 4 <= min(waits) < max(waits) <= 8


def test_retry_after_is_honoured_in_seconds_and_as_a_date(server, tmp_path):
    busy = [(429, {"Retry-After": wait}, b"") for wait in ("7", formatdate(time.time() + 100, usegmt=True), "soon")]
    server.script, naps = busy, []
    endpoint(server, tmp_path, naps).answers(bodies("a"))
    assert naps[0] == 7 and 90 < naps[1] <= 100 and naps[2] <= 4
    past = "Thu, 01 Jan 1970 00:00:00 GMT"
    assert [retry_after(header) for header in (None, "", "-3", "nan", past, "0.5")] == [0, 0, 0, 0, 0, 0.5]


def test_a_server_that_asks_for_an_hour_is_refused_in_a_sentence(server, tmp_path):
    server.script, naps = [(429, {"Retry-After": "3600"}, b'{"error": {"message": "quota"}}')], []
    with pytest.raises(UserError, match=r"wants us to wait 3,600 s \(status 429: quota\); 0 answers are kept"):
        endpoint(server, tmp_path, naps).answers(bodies("a"))
    assert naps == []


def test_when_retries_are_used_up_the_status_is_told_and_answers_stay(server, tmp_path):
    server.script = ["answer", "answer", *[(503, {}, b'{"error": {"message": "over\\nloaded"}}')] * 3]
    with pytest.raises(UserError, match=r"failed 3 times, at last with status 503: over loaded; 2 answers are kept in"):
        endpoint(server, tmp_path, retries=2).answers(bodies(*"abcd"))
    assert endpoint(server, tmp_path).answers(bodies(*"abcd")) == ["re: a", "re: b", "re: c", "re: d"]
    assert server.questions == [*"ab", *"ccc", *"cd"]


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (400, "the request is refused"),
        (401, "the key is not accepted"),
        (403, "the key may not do this"),
        (404, "no such address or model"),
        (302, "the address has moved"),
    ],
)
def test_a_refusal_fails_at_once_and_follows_no_redirect(server, tmp_path, status, hint):
    with running() as other:
        headers = {"Location": other.url} if status == 302 else {}
        server.script, naps = [(status, headers, b'{"error": {"message": "no"}}')] * 9, []
        with pytest.raises(UserError, match=rf"{hint}.*\(status {status}: no\); model 'm'"):
            endpoint(server, tmp_path, naps).answers(bodies("a", "b"))
        assert len(server.requests) == 1 and naps == [] and other.requests == []


def test_a_key_that_the_server_repeats_is_never_printed_cached_or_put_into_a_message(server, tmp_path, capfd, caplog):
    said = f"Incorrect key {KEY}"
    server.script = [
        (200, {}, reply(f"your key is {KEY}")),
        (401, {}, json.dumps({"error": {"message": said}}).encode()),
        (401, {}, b" " * 20 + f"{'x' * 175} {said}".encode()),
        (500, {}, said.encode()),
        (200, {}, said.encode()),
    ]
    assert endpoint(server, tmp_path).answers(bodies("a")) == ["your key is [key]"]
    for _ in range(2):
        with pytest.raises(UserError, match="the key is not accepted") as refused:
            endpoint(server, tmp_path).answers(bodies("b"))
        assert KEY[:8] not in str(refused.value) and refused.value.__suppress_context__
    for _ in range(2):
        with pytest.raises(UserError, match="failed 1 times") as failed:
            endpoint(server, tmp_path, retries=0).answers(bodies("b"))
        assert KEY[:8] not in str(failed.value)
    seen = "".join(capfd.readouterr()) + caplog.text + repr(endpoint(server, tmp_path))
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.*"))
    assert KEY not in seen + kept and "[key]" in kept


def test_a_key_that_is_no_text_is_refused_without_showing_it(server, tmp_path, monkeypatch):
    monkeypatch.setenv("A_KEY", f"{KEY}\nX: y")
    with pytest.raises(UserError, match="'A_KEY' holds no key") as refused:
        endpoint(server, tmp_path).answers(bodies("a"))
    assert KEY not in str(refused.value)
    monkeypatch.setenv("A_KEY", f" {KEY}\n")
    endpoint(server, tmp_path).answers(bodies("a"))
    assert server.requests[0][1]["Authorization"] == f"Bearer {KEY}"


def test_no_key_variable_sends_no_key(server, tmp_path):
    endpoint(server, tmp_path, api_key_env=None).answers(bodies("a"))
    assert "Authorization" not in server.requests[0][1]


def test_an_empty_answer_is_an_answer(server, tmp_path):
    server.script = [(200, {}, reply(None))]
    assert endpoint(server, tmp_path).answers(bodies("a")) == [""]


def test_urls_end_in_chat_completions_and_others_are_refused():
    given = ["https://h/v1", "https://h/v1/", "https://h/v1/chat/completions", "http://h:1/v1?api-version=2#x"]
    made = ["https://h/v1/chat/completions"] * 3 + ["http://h:1/v1/chat/completions?api-version=2"]
    assert [chat_address(url).geturl() for url in given] == made
    for url in ("file:///etc/passwd", "api.openai.com/v1", "http://", "http://h:port", "http://a..b", "http://a b", ""):
        with pytest.raises(UserError, match="is no address"):
            chat_address(url)
    with pytest.raises(UserError, match="holds a login") as refused:
        chat_address(f"https://me:{KEY[:8]}@h/v1")
    assert KEY[:8] not in str(refused.value)


def test_a_server_that_is_not_there_is_told_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running() as gone:
        pass
    with pytest.raises(UserError, match=r"127\.0\.0\.1:\d+/v1/chat/completions failed 2 times.*refused"):
        endpoint(gone, tmp_path, api_key_env=None, retries=1).answers(bodies("a"))


def test_a_run_that_is_killed_keeps_its_answers(server, tmp_path):
    server.script = ["answer", "answer", "silence"]
    code = f"""
from pathlib import Path
from sparsepo.evaluation.chat_client import Endpoint
from sparsepo.runtime.result_cache import Kept
Endpoint({server.url!r}, None, 3, 60.0, 1, Kept(Path({str(tmp_path / "answers.jsonl")!r}))).answers(
    {bodies(*"abcd")!r}
)
"""
    with subprocess.Popen([sys.executable, "-c", code]) as killed:
        while len(server.requests) < 3 and killed.poll() is None:
            time.sleep(0.01)
        killed.kill()
    server.release.set()
    assert endpoint(server, tmp_path).answers(bodies(*"abcd")) == [f"re: {text}" for text in "abcd"]
    assert server.questions == [*"abc", *"cd"]
