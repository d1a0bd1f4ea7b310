"""How far a long loop is and what is left of it, for a person who waits."""

import sys
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import TypeVar

from tqdm import tqdm

EVERY = 10.0  # seconds between two lines of a log

Item = TypeVar("Item")


def progress(
    items: Iterable[Item],
    total: int,
    what: str,
    size: Callable[[Item], int] = lambda item: 1,
    clock: Callable[[], float] = monotonic,
) -> Iterator[Item]:
    """The items; a bar on a terminal, else a line on stdout at most every 10 s and one at the end.

    An item counts as done when the next one is asked for. `size` is how many of `total` it stands for, as a batch does
    for its rows; `clock` gives seconds.
    """
    if sys.stderr.isatty():
        with tqdm(desc=what, total=total) as bar:
            for item in items:
                yield item
                bar.update(size(item))
        return
    done, start = 0, clock()
    told = start
    for item in items:
        yield item
        done, now = done + size(item), clock()
        if now - told >= EVERY and done < total:
            told = now
            left = duration((now - start) / done * (total - done))
            print(f"{what}: {done:,} of {total:,}, {left} left", flush=True)
    print(f"{what}: {done:,} of {total:,} in {duration(clock() - start)}", flush=True)


def duration(seconds: float) -> str:
    """A time as one says it.

    >>> duration(190), duration(7.4), duration(7260)
    ('3 min 10 s', '7 s', '2 h 1 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
