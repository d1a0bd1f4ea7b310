"""A judge's server that misbehaves in every way that HTTP allows ends neither the run nor the memory."""

import json
import socket
import threading
import time
from contextlib import suppress

import psutil
import pytest

from sparsepo.evaluation.chat_client import ChatClient
from sparsepo.evaluation.verdicts import parse_verdict
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.result_cache import ResultCache

KEY = "sk-very/secret-0123456789"
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
GOOD = json.dumps({"choices": [{"message": {"content": "good"}, "finish_reason": "stop"}]}).encode()


def forever(part, pause=0.0, start=b""):
    yield start
    while True:
        yield part
        time.sleep(pause)


MISBEHAVIOUR = {
    "a body without end": lambda: forever(b"10000\r\n" + b"x" * 65536 + b"\r\n", start=CHUNKED),
    "a body of one byte at a time": lambda: forever(b"1\r\nx\r\n", 0.05, CHUNKED),
    "blanks before an answer": lambda: forever(b" ", 0.05, OK + b"Content-Length: 99999\r\n\r\n"),
    "a body until the connection closes": lambda: forever(b"x" * 65536, start=OK + b"\r\n"),
    "a length that is absurd": lambda: forever(b"x" * 65536, start=OK + b"Content-Length: 99999999999999\r\n\r\n"),
    "a length below zero": lambda: forever(b"x", 0.05, OK + b"Content-Length: -1\r\n\r\n"),
    "a chunk that is absurd": lambda: forever(b"x" * 65536, start=CHUNKED + b"ffffffffffffffff\r\n"),
    "headers without end": lambda: forever(b"X-A: " + b"x" * 1000 + b"\r\n", start=OK),
    "a header without end": lambda: forever(b"x" * 1000, start=OK + b"X-A: "),
    "headers of one byte at a time": lambda: forever(b"x", 0.05, OK + b"X-A: "),
    "a status of one byte at a time": lambda: forever(b"H", 0.05),
    "trailers without end": lambda: forever(b"X-A: " + b"x" * 1000 + b"\r\n", start=CHUNKED + b"1\r\nx\r\n0\r\n"),
    "trailers of one byte at a time": lambda: forever(b"x", 0.05, CHUNKED + b"1\r\nx\r\n0\r\nX-A: "),
    "interim answers without end": lambda: forever(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "a compressed answer": lambda: [OK + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"],
    "an error without end": lambda: forever(b"x" * 65536, start=b"HTTP/1.1 400 Bad\r\n\r\n"),
    "control characters": lambda: [b"HTTP/1.1 500 \x1b[2J\r\nContent-Length: 8\r\n\r\n\x1b[2J\x00\r\x08\x07"],
    "nothing": lambda: forever(b"", 0.05),
    "a very long number": lambda: [OK + b'\r\n{"choices": [' + b"7" * 100_000 + b"]}"],
    "two lengths": lambda: [OK + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde"],
    "a length and chunks": lambda: [
        OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    ],
    "a charset of its own": lambda: [OK + b"Content-Type: application/json; charset=\x00own\r\n\r\n{}"],
    "a charset that is no text": lambda: [OK + b"Content-Type: application/json; charset=base64\r\n\r\n{}"],
    "status 999": lambda: [b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n"],
    "status 99": lambda: [b"HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n"],
    "another protocol": lambda: forever(b"x", 0.05, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
    "no HTTP": lambda: [b"SSH-2.0-OpenSSH\r\n" * 99],
    "a stream of events": lambda: forever(b"data: {}\n\n", 0.05, OK + b"Content-Type: text/event-stream\r\n\r\n"),
    "no content": lambda: [b"HTTP/1.1 204 No Content\r\n\r\n"],
    "not modified": lambda: [b"HTTP/1.1 304 Not Modified\r\n\r\n"],
    "a wait that is no number": lambda: [b"HTTP/1.1 429 Busy\r\nRetry-After: nan\r\nContent-Length: 0\r\n\r\n"],
    "an endless wait": lambda: [b"HTTP/1.1 503 Busy\r\nretry-after-ms: 1e308\r\nContent-Length: 0\r\n\r\n"],
    "a reply that is a list": lambda: [OK + b"\r\n" + b'[{"choices": 1}]'],
    "choices that are a text": lambda: [OK + b"\r\n" + b'{"choices": "abc"}'],
    "parts that are numbers": lambda: [OK + b"\r\n" + b'{"choices": [{"message": {"content": [1, 2]}}]}'],
    "a message that is a text": lambda: [OK + b"\r\n" + b'{"choices": [{"message": "good", "finish_reason": "stop"}]}'],
}
NOT_TRIED_AGAIN = ("an error without end", "not modified", "an endless wait")
"""Each is the refusal of a request, or asks to wait for too long."""


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("A_KEY", KEY)
    listener, ending = socket.create_server(("127.0.0.1", 0)), threading.Event()
    script = []

    def answer(connection, parts):
        with connection, suppress(OSError):
            connection.recv(65536)
            for part in parts:
                if ending.is_set():
                    return
                connection.sendall(part)

    def accept():
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                good = OK + b"Content-Length: %d\r\n\r\n" % len(GOOD) + GOOD
                parts = script.pop(0)() if script else [good]
                threading.Thread(target=answer, args=(connection, parts), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()

    def start(*entries):
        script[:] = entries
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

    yield start
    ending.set()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def client(url, folder, **changed):
    settings = {"retries": 1, "timeout": 0.6, "max_concurrency": 1, "model": "m", "max_tokens": 9}
    return ChatClient(url, api_key_env="A_KEY", cache=ResultCache(folder / "answers.jsonl"), **(settings | changed))


@pytest.mark.parametrize("misbehave", MISBEHAVIOUR.values(), ids=MISBEHAVIOUR)
def test_what_a_server_does_is_bounded_in_time_and_memory_tried_again_and_told(serve, tmp_path, misbehave):
    before, start = psutil.Process().memory_info().rss, time.monotonic()
    if misbehave not in [MISBEHAVIOUR[name] for name in NOT_TRIED_AGAIN]:
        (answer,) = client(serve(misbehave), tmp_path).answers(["a"])
        assert answer.text == "good"
    with pytest.raises(UserError) as told:
        client(serve(misbehave, misbehave), tmp_path, retries=0).answers(["b"])
    assert str(told.value).isprintable() and len(str(told.value)) < 600
    assert time.monotonic() - start < 30  # the servers go on for ever; a busy machine takes some of this
    assert psutil.Process().memory_info().rss - before < 100 << 20


def test_the_time_of_a_request_is_told(serve, tmp_path):
    url = serve(MISBEHAVIOUR["a body of one byte at a time"])
    with pytest.raises(UserError, match=r"failed \(no answer within 0\.6 s\), retries: 0"):
        client(url, tmp_path, retries=0).answers(["a"])


@pytest.mark.parametrize("part", ["{", '{"a":', "[[", "[[A]]!", "<think>", "&amp;", "[[A" + " " * 99])
def test_no_answer_takes_long_to_read(serve, tmp_path, part):
    """CPU time, which a busy machine does not change; in the square of the length it would take a minute."""
    text, start = part * (200_000 // len(part)), time.process_time()
    (answer,) = client(serve(said(text)), tmp_path, timeout=60.0).answers(["a"])
    assert parse_verdict(answer) == (1.0 if part == "[[A]]!" else None)
    assert time.process_time() - start < 10


def said(text, finish_reason="stop"):
    body = json.dumps({"choices": [{"message": {"content": text}, "finish_reason": finish_reason}]}).encode()
    return lambda: [OK + b"Content-Length: %d\r\n\r\n" % len(body) + body]


def test_a_key_in_escapes_reaches_neither_the_cache_nor_an_error(serve, tmp_path):
    escaped = "".join(f"\\u{ord(sign):04x}" for sign in KEY)
    url = serve(said(f"it is {escaped}", f"\x1b{KEY}"), lambda: [OK + b"\r\n" + escaped.encode()])
    (answer,) = client(url, tmp_path).answers(["a"])
    assert answer.text == "it is [key]" and answer.finish_reason == "\\x1b[key]"
    with pytest.raises(UserError) as told:
        client(url, tmp_path, retries=0).answers(["b"])
    kept = (tmp_path / "answers.jsonl").read_text() + str(told.value)
    assert KEY not in kept and "u0073" not in kept


def test_a_key_over_plain_http_to_another_machine_is_warned_of(tmp_path, monkeypatch, capsys, serve):
    client(serve(), tmp_path).answers(["a"])
    assert "without encryption" not in capsys.readouterr().err
    monkeypatch.setenv("A_KEY", KEY)
    with pytest.raises(UserError):
        client("http://judge.invalid/v1", tmp_path, retries=0).answers(["b"])
    assert "the key is sent to http://judge.invalid/v1 without encryption" in capsys.readouterr().err
