"""What a step is made of: text pairs as token pairs, and places among them as micro-batches."""

from collections.abc import Mapping, Sequence
from typing import Any

from sparsepo.config import PreferenceConfig
from sparsepo.data.collation import Encoded, TokenPair, collate, encode_pairs, split
from sparsepo.data.records import Preference, as_record
from sparsepo.models import context_of
from sparsepo.training.reference import Cache


def encode(
    tokenizer: Any, pairs: Sequence[Preference | Mapping[str, Any]], config: PreferenceConfig, model: Any
) -> Encoded:
    """The token pairs that can train, within the config's limits and the model's context; a line says how many."""
    records = [
        pair if isinstance(pair, Preference) else as_record(pair, Preference, f"pairs[{place}]")
        for place, pair in enumerate(pairs)
    ]
    limits = config.max_prompt_tokens, config.max_response_tokens, context_of(model)
    encoded = encode_pairs(tokenizer, records, *limits)
    print(f"{len(encoded.pairs)} of {len(records)} pairs can train; dropped: {encoded.dropped or 'none'}", flush=True)
    return encoded


class MicroBatches:
    """Collates places in `pairs` into the micro-batches of one step, with what is cached of the reference."""

    def __init__(self, pairs: Sequence[TokenPair], layout: str, config: PreferenceConfig, cache: Sequence[Cache] = ()):
        self.pairs, self.layout, self.config, self.cache = pairs, layout, config, cache

    def __call__(self, places: Sequence[int]) -> dict[str, list[dict[str, Any]]]:
        parts = split(places, self.pairs, self.layout, self.config.micro_batch_size, self.config.micro_batch_tokens)
        return {"micro": [self._batch(part) for part in parts]}

    def _batch(self, places: Sequence[int]) -> dict[str, Any]:
        batch = collate([self.pairs[place] for place in places], 0, self.layout)
        known = {cache.field: cache.of_pairs(places) for cache in self.cache}
        return {**batch, **known, "pairs": tuple(places)}
