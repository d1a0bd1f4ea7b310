"""What a step consists of: preference pairs as token pairs, and micro-batches of them."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import Sampler

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.batches import PairBatch
from sparsepo.data.chat import ChatRenderer
from sparsepo.data.collation import collate_pairs, split_into_micro_batches
from sparsepo.data.encoding import EncodedPairs, Encoder, TokenPair, encode_pairs
from sparsepo.data.prompts import PromptBuilder
from sparsepo.data.records import Preference
from sparsepo.models.limits import check_sequences, context_length
from sparsepo.runtime.errors import UserError
from sparsepo.training.reference_cache import ReferenceCache

Pairs = Sequence[Preference | Mapping[str, Any]]


def as_preferences(pairs: Pairs, tokenizer: Any) -> list[Preference]:
    """Pairs as records; chats go through the chat template of the tokenizer.

    Raises UserError for a mapping that is no preference, and for chats that differ before their last messages.
    """
    builder, records = PromptBuilder(ChatRenderer(tokenizer)), []
    for index, pair in enumerate(pairs):
        record = pair if isinstance(pair, Preference) else builder.pair(pair, f"pairs[{index}]")
        if record is None:
            raise UserError(f"pairs[{index}]: chosen and rejected differ before the last message")
        records.append(record)
    for note in builder.notes:
        print(note, flush=True)
    return records


def encode_usable_pairs(
    tokenizer: Any, pairs: Pairs, config: PreferenceConfig, model: Any, use: str = "train"
) -> EncodedPairs:
    """The pairs that fit the config's limits and the model's context; prints how many there are to `use`.

    Raises UserError for tokens that `check_sequences` refuses.
    """
    records = as_preferences(pairs, tokenizer)
    limits = config.max_prompt_tokens, config.max_response_tokens, context_length(model)
    encoded = encode_pairs(Encoder(tokenizer, model), records, *limits)
    check_sequences(model, pair_sequences(encoded.pairs))
    print(f"{len(encoded.pairs)} of {len(records)} pairs can {use}; dropped: {encoded.dropped or 'none'}", flush=True)
    return encoded


def pair_sequences(pairs: Iterable[TokenPair]) -> Iterator[list[int]]:
    """Each prompt with its chosen and with its rejected response."""
    return (
        prompt + response
        for pair in pairs
        for prompt, response in zip(pair.prompts, (pair.chosen, pair.rejected), strict=True)
    )


class PairBatches:
    """Makes batches of pairs, by their indices, with the cached outputs of the reference."""

    def __init__(
        self, pairs: Sequence[TokenPair], layout: str, config: PreferenceConfig, caches: Sequence[ReferenceCache] = ()
    ):
        self.pairs, self.layout, self.config, self.caches = pairs, layout, config, caches

    def split(self, indices: Sequence[int]) -> list[list[int]]:
        limits = self.config.micro_batch_size, self.config.micro_batch_tokens
        return split_into_micro_batches(indices, self.pairs, self.layout, *limits)

    def collate(self, indices: Sequence[int]) -> PairBatch:
        batch = collate_pairs([self.pairs[index] for index in indices], 0, self.layout)
        cached = {cache.field: cache.of_pairs(indices) for cache in self.caches}
        return replace(batch, pair_indices=tuple(indices), **cached)

    def count(self, indices: Sequence[int]) -> int:
        return len(indices)


class EpochSampler(Sampler[int]):
    """Indices of pairs that belong to one epoch each: epoch by epoch, shuffled within each by the seed.

    A batch may contain the last pairs of an epoch and the first of the next.
    """

    def __init__(self, epochs: Sequence[int], seed: int):
        self.epochs, self.seed = epochs, seed

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        for epoch in sorted(set(self.epochs)):
            indices = [index for index, own_epoch in enumerate(self.epochs) if own_epoch == epoch]
            yield from (indices[at] for at in torch.randperm(len(indices), generator=generator).tolist())


def epoch_sampler(pair_epochs: Sequence[int | None], num_epochs: float, seed: int) -> EpochSampler | None:
    """A sampler for pairs that belong to one epoch each; None where all pairs are for every epoch.

    Raises UserError unless there are pairs for each of the `num_epochs` epochs and for no other.
    """
    epochs = set(pair_epochs)
    if epochs == {None}:
        return None
    if None in epochs:
        count = f"{pair_epochs.count(None)} of {len(pair_epochs)}"
        raise UserError(f"{count} pairs have no 'epoch': all must have one, or none")
    if epochs != set(range(math.ceil(num_epochs))):
        listed = ", ".join(map(str, sorted(epochs)))
        raise UserError(
            f"the usable pairs are of the epochs {listed}, and training.num_train_epochs is {num_epochs:g}: "
            f"there must be pairs for each of 0 ... {math.ceil(num_epochs) - 1} and for no other"
        )
    return EpochSampler(pair_epochs, seed)
