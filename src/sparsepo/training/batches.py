"""What a step is made of: text pairs as token pairs, and places among them as micro-batches."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import Sampler

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.collation import Encoded, TokenPair, collate, encode_pairs, split
from sparsepo.data.records import Preference, as_record
from sparsepo.errors import UserError
from sparsepo.models import context_of
from sparsepo.training.reference import Cache

Pairs = Sequence[Preference | Mapping[str, Any]]


def records_of(pairs: Pairs) -> list[Preference]:
    """Pairs as records; UserError for a mapping that is none."""
    return [
        pair if isinstance(pair, Preference) else as_record(pair, Preference, f"pairs[{place}]")
        for place, pair in enumerate(pairs)
    ]


def encode(tokenizer: Any, pairs: Pairs, config: PreferenceConfig, model: Any, use: str = "train") -> Encoded:
    """The token pairs that are usable, within the config's limits and the model's context; a line says how many."""
    records = records_of(pairs)
    limits = config.max_prompt_tokens, config.max_response_tokens, context_of(model)
    encoded = encode_pairs(tokenizer, records, *limits)
    print(f"{len(encoded.pairs)} of {len(records)} pairs can {use}; dropped: {encoded.dropped or 'none'}", flush=True)
    return encoded


class Batches(Protocol):
    """How data become batches: `cut` into micro-batches, each collated, its `tokens` counted too.

    `count`: how many things there are in them whose mean loss is minimised.
    """

    def cut(self, items: Sequence[Any]) -> list[Any]: ...

    def collate(self, items: Sequence[Any]) -> dict[str, Any]: ...

    def count(self, items: Sequence[Any]) -> int: ...


class MicroBatches:
    """Batches of places in `pairs`, with what is cached of the reference; pairs are counted."""

    def __init__(self, pairs: Sequence[TokenPair], layout: str, config: PreferenceConfig, cache: Sequence[Cache] = ()):
        self.pairs, self.layout, self.config, self.cache = pairs, layout, config, cache

    def cut(self, places: Sequence[int]) -> list[list[int]]:
        return split(places, self.pairs, self.layout, self.config.micro_batch_size, self.config.micro_batch_tokens)

    def collate(self, places: Sequence[int]) -> dict[str, Any]:
        batch = collate([self.pairs[place] for place in places], 0, self.layout)
        known = {cache.field: cache.of_pairs(places) for cache in self.cache}
        return {**batch, **known, "pairs": tuple(places)}

    def count(self, places: Sequence[int]) -> int:
        return len(places)


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


class EpochByEpoch(Sampler[int]):
    """Places of pairs of which each belongs to one epoch: epoch by epoch, shuffled within, in an order of the seed's.

    A batch may hold the last pairs of an epoch and the first of the next.
    """

    def __init__(self, epochs: Sequence[int], seed: int):
        self.epochs, self.seed = epochs, seed

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        for epoch in sorted(set(self.epochs)):
            places = [place for place, own in enumerate(self.epochs) if own == epoch]
            yield from (places[at] for at in torch.randperm(len(places), generator=generator).tolist())


def order_of(epochs: Sequence[int | None], wanted: float, seed: int) -> EpochByEpoch | None:
    """The order of pairs that belong to one epoch each; None where all pairs are for every epoch.

    Raises UserError unless there are pairs for each of the `wanted` epochs and for no other.
    """
    given = set(epochs)
    if given == {None}:
        return None
    if None in given:
        raise UserError(f"{epochs.count(None)} of {len(epochs)} pairs name no 'epoch': all must name one, or none")
    if given != set(range(math.ceil(wanted))):
        named = ", ".join(map(str, sorted(given)))
        raise UserError(
            f"the usable pairs are of the epochs {named}, and training.epochs is {wanted:g}: "
            f"there must be pairs for each of 0 ... {math.ceil(wanted) - 1} and for no other"
        )
    return EpochByEpoch(epochs, seed)
