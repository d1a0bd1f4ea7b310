"""Mutants of good input, by a seed: the tree of a document is changed in one to three places, or its bytes are."""

import copy
import json
import random
import signal
from contextlib import contextmanager

import pytest

from sparsepo.runtime.errors import UserError

COUNT = 2000
PATIENCE = 60  # seconds of this process's own time, so that a busy machine does not matter

TEXTS = [
    *(
        "",
        " ",
        "x",
        "\x00",
        "\n\n\n",
        "\u202egpj.exe",
        "\ufeff",
        "\u2028",
        "caf\u00e9",
        "\U0001f600",
        "\ud83d",
        "e\u0301",
    ),
    *(
        "a" * 5000,
        "../../etc/passwd",
        "/etc/passwd",
        "~",
        "{task}",
        "*",
        "-rf",
        "a__b",
        "a b",
        "'; ls #",
        "${HOME}",
        "%s",
    ),
    *("true", "yes", "null", "nan", "-inf", "1e999", "0x10", "1_000", "\u0661", "NaN", "<<", "!!python/name:os.system"),
]
NUMBERS = [0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308, -1e308]
NUMBERS += [float("nan"), float("inf"), float("-inf")]


def _deep(rng):
    value = rng.choice([1, "x", None])
    for _ in range(rng.choice([3, 60])):
        value = [value] if rng.random() < 0.5 else {"x": value}
    return value


def any_value(rng):
    """A value of any kind; deep ones are rare, as they are slow to write."""
    makers = [
        lambda: rng.choice(TEXTS),
        lambda: rng.choice(NUMBERS),
        lambda: rng.choice([None, True, False]),
        lambda: rng.choice([[], {}, [[]], [None], {"": None}, [{}], {"x": {}}]),
        lambda: [rng.choice(TEXTS + NUMBERS) for _ in range(rng.choice([1, 2, 300]))],
        lambda: {rng.choice(TEXTS): rng.choice(NUMBERS) for _ in range(3)},
    ]
    return _deep(rng) if rng.random() < 0.02 else rng.choice(makers)()


def _containers(value):
    found, pending = [], [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict | list) and value:
            found.append(value)
            pending += value.values() if isinstance(value, dict) else value
    return found


def _change(rng, tree):
    holder = rng.choice(_containers(tree) or [tree])
    places = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
    if not places:
        return
    place = rng.choice(places)
    kind = rng.choice(["drop", "rename", "replace", "replace", "wrap", "swap", "add", "repeat"])
    if kind == "drop":
        del holder[place]
    elif kind == "rename" and isinstance(holder, dict):
        holder[rng.choice([place + "s", place[:-1], place.upper(), rng.choice(TEXTS)])] = holder.pop(place)
    elif kind == "wrap":
        holder[place] = rng.choice([[holder[place]], {"x": holder[place]}, str(holder[place]), [holder[place]] * 2])
    elif kind == "swap":
        other = rng.choice(places)
        holder[place], holder[other] = holder[other], holder[place]
    elif kind == "add" and isinstance(holder, dict):
        holder[rng.choice([*places, *TEXTS])] = any_value(rng)
    elif kind == "repeat" and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[place]))
    else:
        holder[place] = any_value(rng)


def changed(rng, tree):
    """A copy of a tree of dicts and lists with one to three changes."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, 3)):
        _change(rng, tree)
    return tree


def with_a_key_twice(rng, line):
    """JSON text of an object, one of whose keys is given once more; not parsed, as a parser would lose it."""
    tree = json.loads(line)
    key = rng.choice(list(tree))
    return line[:-1] + f", {json.dumps(key)}: {json.dumps(rng.choice([tree[key], None, 'other']))}" + "}"


def broken(rng, data):
    """Bytes with one to three changes that no editor of trees would make."""
    for _ in range(rng.randint(1, 3)):
        at, length = rng.randrange(len(data) + 1), rng.choice([1, 3, 40])
        kind = rng.randrange(10)
        if kind == 0:
            data = data[:at]
        elif kind == 1 and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        elif kind == 2:
            data = data[:at] + rng.randbytes(length) + data[at:]
        elif kind == 3:
            data = data[:at] + data[at + length :]
        elif kind == 4:
            data = rng.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\x00"]) + data
        elif kind == 5:
            data = data.replace(b"\n", rng.choice([b"\r\n", b"\r", b"\n\n", b"\n \n"]))
        elif kind == 6:
            data = data[:at] + "\u00e9\u00fc".encode("latin-1") + data[at:]
        elif kind == 7:
            data = data[:at] + rng.choice(["\u2028", "\u202e", "\U0001f600", "\\ud83d", "\\u0000"]).encode() + data[at:]
        elif kind == 8:
            data = (
                data[:at]
                + rng.choice([b"[", b"{", b'"', b"}", b"]", b",", b":", b"&a ", b"*a", b"!!set ", b"[" * 9999])
                + data[at:]
            )
        else:
            data = data[:at] + data[at : at + length] * rng.choice([2, 50]) + data[at + length :]
    return data


class Hang(BaseException):
    """Not an Exception, so that no `except` of the code under test takes it."""


def _give_up(*_):
    raise Hang(f"more than {PATIENCE} s of work on one mutant")


@contextmanager
def _watched():
    before = signal.signal(signal.SIGVTALRM, _give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def check(load, holds, told):
    """`load()` either returns what satisfies `holds`, or raises a UserError whose text satisfies `told`.

    True if it loaded.
    """
    with _watched():
        try:
            made = load()
        except UserError as error:
            told(str(error))
            return False
        holds(made)
        return True


def survive(name, attempt, count=COUNT):
    """Call `attempt(rng)` with `count` seeds; it returns whether its mutant was taken. A failure names the seed."""
    taken = 0
    for number in range(count):
        seed = f"{name} {number}"
        try:
            taken += attempt(random.Random(seed))
        except (Exception, Hang) as error:
            pytest.fail(f"random.Random({seed!r}): {type(error).__name__}: {error}"[:2000], pytrace=False)
    assert 0 < taken < count, f"{taken} of {count} mutants were taken: the mutations are too harsh or too mild"


@pytest.fixture(scope="session")
def fuzz():
    """The functions of this file, by name."""
    from types import SimpleNamespace

    return SimpleNamespace(**{f.__name__: f for f in (any_value, changed, with_a_key_twice, broken, check, survive)})
