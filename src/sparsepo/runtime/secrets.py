"""Keys of services: read from the environment, kept out of addresses, and hidden in what a server says."""

import base64
import ipaddress
import os
import re
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from sparsepo.runtime.errors import UserError, one_line

PATH = "/chat/completions"
SECRET_LENGTH = 8  # characters: a shorter key is a placeholder for a server that asks for none
SECRET_NAME = re.compile(r"key|token|secret|password|passwd|pwd|auth|signature|credential|^(sig|code|pass)$", re.I)
"""Names of parameters of a URL that hold a key."""
INSTEAD = "write the name of an environment variable that holds it as api_key_env"


def split_url(url: str) -> tuple[str, dict[str, str]]:
    """The URL before /chat/completions, and its query. Raises UserError for no http(s) address, or one with a key."""
    address, _, query = url.partition("?")
    if "@" in unquote(address):
        raise UserError(f"judge url holds a login ('@'), which logs and results would show; {INSTEAD}")
    for part in re.split(r"[&;#]", unquote(query)):
        name = part.partition("=")[0]
        if SECRET_NAME.search(name):
            raise UserError(f"judge url holds a key ('{one_line(name, 40)}='), which logs would show; {INSTEAD}")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
        is_usable = parts.scheme in ("http", "https") and host.encode("idna") and url.isascii() and url.isprintable()
    except ValueError:
        is_usable = False
    if not is_usable or " " in url:
        shown = one_line(address, 100)
        raise UserError(f"judge url '{shown}' is no address; one like https://api.openai.com/v1 is expected")
    path = parts.path.rstrip("/").removesuffix(PATH)
    return urlunsplit((parts.scheme, parts.netloc, path, "", "")), dict(parse_qsl(parts.query))


def is_sent_in_the_clear(url: str) -> bool:
    """Whether what is sent to this URL can be read on its way: plain http to another machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost" or host.endswith(".localhost")
    return parts.scheme == "http" and not is_local


def read_api_key(variable: str | None) -> str:
    """The key, without blanks around it; empty for no variable. UserError for a variable unset, or not plain text."""
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"environment variable '{variable}', for the key of the judge endpoint, is not set")
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"environment variable '{variable}' holds no key: a line break or a character not in ASCII")
    return key


def hide_key(text: str, key: str) -> str:
    r"""`text` with "[key]" in place of the key, which some servers repeat.

    It is found as it is, with escapes of JSON, Python, URLs or HTML (`\/`, `\u002f`, `\x2f`, `%2F`, `&#47;`), also
    mixed or twice, in hexadecimal, and in base64 with anything in front of it.
    """
    if len(key) < SECRET_LENGTH:
        return text
    data = key.encode()
    forms = [_escaped(key), data.hex()]
    for before in range(3):  # bytes in front, which shift the letters
        letters = base64.b64encode(bytes(before) + data).decode()
        first, last = -(-8 * before // 6), 8 * (before + len(data)) // 6  # those that the key alone decides
        inner = letters[first:last]
        forms += [f"[A-Za-z0-9+/_-]?{_escaped(own)}[A-Za-z0-9+/_-]?=*" for own in (inner, inner.translate(URL_SAFE))]
    return re.sub("|".join(forms), "[key]", text, flags=re.I)


URL_SAFE = str.maketrans("+/", "-_")


def _escaped(text: str) -> str:
    """A pattern for a text in which any character may be escaped. Its repeats are bounded: it takes linear time."""
    return "".join(
        rf"(?:\\{{0,8}}{re.escape(sign)}|\\{{1,8}}(?:u\{{?0{{0,6}}{ord(sign):x}\}}?|x{ord(sign):02x}|0{{0,2}}{ord(sign):o})"
        rf"|%(?:25){{0,4}}{ord(sign):02x}|&(?:amp;){{0,4}}\#(?:0{{0,6}}{ord(sign)}|x0{{0,6}}{ord(sign):x});)"
        for sign in text
    )
