"""What a step's data become, whatever is trained: the micro-batches of each process."""

from collections.abc import Sequence
from typing import Any, Protocol


class Batches(Protocol):
    """How data become batches: `cut` into micro-batches, each collated, its `tokens` counted too.

    `count`: how many things there are in them whose mean loss is minimised.
    """

    def cut(self, items: Sequence[Any]) -> list[Any]: ...

    def collate(self, items: Sequence[Any]) -> dict[str, Any]: ...

    def count(self, items: Sequence[Any]) -> int: ...


class Shares:
    """Collates all data of a step into the share of process `rank` of `ranks`.

    `micro`: its micro-batches, each with a `weight`; `count`: that of the whole step, whatever the number of processes.
    Every process gets as many, since sharded weights are gathered by all at once: who has less to do computes another's
    with weight 0.
    """

    def __init__(self, batches: Batches, rank: int = 0, ranks: int = 1):
        self.batches, self.rank, self.ranks = batches, rank, ranks

    def __call__(self, items: Sequence[Any]) -> dict[str, Any]:
        parts = [self.batches.cut(items[rank :: self.ranks]) for rank in range(self.ranks)]
        own, spare = parts[self.rank], parts[0][-1]
        idle = [spare] * (max(map(len, parts)) - len(own))
        micro = [{**self.batches.collate(part), "weight": 1} for part in own]
        micro += [{**self.batches.collate(part), "weight": 0} for part in idle]
        return {"micro": micro, "count": self.batches.count(items)}
