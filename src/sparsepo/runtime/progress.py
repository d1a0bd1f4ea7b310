"""How far a long loop is and how long it will still take: in the terminal or log, and in the status file of the job."""

import sys
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import ClassVar, TypeVar

from tqdm import tqdm

from sparsepo.runtime.status import update_status

PRINT_EVERY = 10.0  # seconds between two lines of a log

Item = TypeVar("Item")


class Loop:
    """Counts the steps of a loop. The outermost loop of a process stands in its status file.

    `done`: steps that were done before, as in a training that resumes; `clock` gives seconds.
    """

    _outermost: ClassVar["Loop | None"] = None

    def __init__(self, phase: str, total: int, done: int = 0, clock: Callable[[], float] = monotonic):
        self.phase, self.total, self.done, self._first = phase, total, done, done
        self._clock, self._start = clock, clock()
        Loop._outermost = Loop._outermost or self
        self.advance(done)

    @property
    def seconds(self) -> float:
        return self._clock() - self._start

    @property
    def seconds_per_step(self) -> float | None:
        """The mean; None before the first step."""
        return self.seconds / (self.done - self._first) if self.done > self._first else None

    @property
    def seconds_left(self) -> float | None:
        """At the mean speed so far; None before the first step."""
        return None if self.seconds_per_step is None else self.seconds_per_step * (self.total - self.done)

    def advance(self, done: int) -> None:
        self.done = done
        if Loop._outermost is self:
            update_status(self.phase, done, self.total, self.seconds_per_step, self.seconds_left)

    def close(self) -> None:
        if Loop._outermost is self:
            Loop._outermost = None


def progress(
    items: Iterable[Item],
    total: int,
    what: str,
    size: Callable[[Item], int] = lambda item: 1,
    clock: Callable[[], float] = monotonic,
) -> Iterator[Item]:
    """The items; shows a bar on a terminal, else prints a line at most every 10 s and one at the end.

    An item counts as done when the next one is asked for. `size` is how many of `total` it stands for, as a batch does
    for its rows; `clock` gives seconds.
    """
    loop, printed, is_terminal = Loop(what, total, clock=clock), 0.0, sys.stderr.isatty()
    try:
        with tqdm(desc=what, total=total, **({} if is_terminal else {"disable": True})) as bar:
            for item in items:
                yield item
                bar.update(size(item))
                loop.advance(loop.done + size(item))
                if not is_terminal and loop.seconds - printed >= PRINT_EVERY and loop.done < total:
                    printed = loop.seconds
                    left = format_duration(loop.seconds_left or 0.0)
                    print(f"{what}: {loop.done:,} of {total:,}, {left} left", flush=True)
        if not is_terminal:
            print(f"{what}: {loop.done:,} of {total:,} in {format_duration(loop.seconds)}", flush=True)
    finally:
        loop.close()


def format_duration(seconds: float) -> str:
    """Seconds in words.

    >>> format_duration(190), format_duration(7.4), format_duration(7260)
    ('3 min 10 s', '7 s', '2 h 1 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
