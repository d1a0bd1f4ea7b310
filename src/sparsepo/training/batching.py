"""What a step is made of: text pairs as token pairs, and places among them as micro-batches."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.collation import Encoded, TokenPair, collate, encode_pairs, split
from sparsepo.data.records import Preference, as_record
from sparsepo.models.loading import context_of
from sparsepo.runtime.errors import UserError
from sparsepo.training.reference_cache import Cache

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


class EpochSampler(Sampler[int]):
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


def order_of(epochs: Sequence[int | None], wanted: float, seed: int) -> EpochSampler | None:
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
            f"the usable pairs are of the epochs {named}, and training.num_train_epochs is {wanted:g}: "
            f"there must be pairs for each of 0 ... {math.ceil(wanted) - 1} and for no other"
        )
    return EpochSampler(epochs, seed)
