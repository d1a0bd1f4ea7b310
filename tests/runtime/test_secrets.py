"""Keys in addresses are refused, and keys that a server repeats are hidden however they are written."""

import base64
import html
import json
from urllib.parse import quote

import pytest

from sparsepo.config.scorers import EndpointJudge
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.secrets import hide_key, is_sent_in_the_clear, split_url

KEY = "sk-very/secret+0123456789"

WRITTEN = {
    "as it is": KEY,
    "JSON": json.dumps(KEY).replace("/", "\\/"),
    "JSON, every letter": "".join(f"\\u{ord(sign):04x}" for sign in KEY),
    "JSON in JSON": json.dumps(json.dumps("".join(f"\\u{ord(sign):04X}" for sign in KEY))),
    "Python": "".join(f"\\x{ord(sign):02x}" for sign in KEY),
    "JavaScript": "".join(f"\\u{{{ord(sign):x}}}" for sign in KEY),
    "octal": "".join(f"\\{ord(sign):03o}" for sign in KEY),
    "mixed": "\\u0073k-v" + KEY[4:-1] + "%39",
    "percent": quote(KEY, safe=""),
    "percent, every letter": "".join(f"%{ord(sign):02x}" for sign in KEY),
    "percent twice": quote(quote(KEY, safe="")),
    "HTML": html.escape(KEY).replace("/", "&#x2F;").replace("-", "&#45;"),
    "hexadecimal": KEY.encode().hex().upper(),
    "capitals": KEY.upper(),
    **{f"base64 after {n}": base64.b64encode(b"user:"[:n] + KEY.encode() + b"!"[: n % 2]).decode() for n in range(6)},
    **{f"URL-safe base64 after {n}": base64.urlsafe_b64encode(b"?" * n + KEY.encode()).decode() for n in range(3)},
    "base64 in JSON": json.dumps(base64.b64encode(KEY.encode()).decode()).replace("/", "\\/"),
}


@pytest.mark.parametrize("written", WRITTEN.values(), ids=WRITTEN)
def test_a_key_is_hidden_however_it_is_written(written):
    hidden = hide_key(f"no such key: {written}.", KEY)
    assert hidden.startswith("no such key: ") and hidden.endswith(".") and "[key]" in hidden
    assert len(hidden) < len("no such key: [key].") + 12


def test_other_text_stays():
    text = "an answer with 100% of \\u00e9 &amp; aGVsbG8gd29ybGQ= and [[A]]"
    assert hide_key(text, KEY) == text and hide_key("none is none", "none") == "none is none"


def test_hiding_takes_no_longer_than_reading():
    hide_key("\\" * 100_000 + "%25" * 50_000 + "sk-very/" * 10_000, KEY)


@pytest.mark.parametrize(
    "url",
    [
        f"https://me:{KEY}@h/v1",
        f"https://{KEY}@h/v1",
        f"https://me%3A{KEY}%40h/v1",
        f"https://h/v1?api_key={KEY}",
        f"https://h/v1?api-version=2&key={KEY}",
        f"https://h/v1?token={KEY}",
        f"https://h/v1?ACCESS_TOKEN={KEY}",
        f"https://h/v1?%6bey={KEY}",
        f"https://h/v1?a=1;subscription-key={KEY}",
        f"https://h:port/v1?apikey={KEY}",
    ],
)
def test_a_key_in_an_address_is_refused_early_and_not_shown(url):
    with pytest.raises(UserError, match="api_key_env") as refused:
        split_url(url)
    assert KEY[:7] not in str(refused.value)
    with pytest.raises(ValueError, match="api_key_env"):
        EndpointJudge(kind="endpoint", url=url, model="m", asks="summary")


def test_a_query_without_a_key_stays():
    assert split_url("https://h/v1?api-version=2") == ("https://h/v1", {"api-version": "2"})


@pytest.mark.parametrize(
    ("url", "is_clear"),
    [
        ("http://judge.example/v1", True),
        ("http://10.0.0.1:8000/v1", True),
        ("http://localhost.example/v1", True),
        ("https://judge.example/v1", False),
        ("http://127.0.0.1:8000/v1", False),
        ("http://127.3.2.1/v1", False),
        ("http://[::1]:8000/v1", False),
        ("http://localhost/v1", False),
    ],
)
def test_plain_http_is_told_apart_from_what_nobody_else_can_read(url, is_clear):
    assert is_sent_in_the_clear(url) == is_clear
