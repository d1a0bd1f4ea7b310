"""What the policy that pairs were sampled from says of them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.collation import encode_pairs, encode_response
from sparsepo.data.records import Preference
from sparsepo.models import context_of
from sparsepo.training.reference import computed


def with_logps(
    model: Any, tokenizer: Any, pairs: Sequence[Preference], config: PreferenceConfig
) -> tuple[list[Preference], dict[str, int]]:
    """The pairs that can train, each with the model's log-probs (nats) of its tokens as `values`; why others cannot.

    They are of the tokens that training reads, which are those of the text, not always those that were sampled. What is
    cut there has 0, as nobody reads it.
    """
    limits = config.max_prompt_tokens, config.max_response_tokens, context_of(model)
    encoded = encode_pairs(tokenizer, pairs, *limits)
    known = dict(computed(model, encoded.pairs, "logps", config))
    made = []
    for at, place in enumerate(encoded.kept):
        pair, logps, first = pairs[place], known[at].tolist(), len(encoded.pairs[at].chosen)
        sizes = [
            len(encode_response(tokenizer, text, ended))
            for text, ended in ((pair.chosen, pair.chosen_ended), (pair.rejected, pair.rejected_ended))
        ]
        chosen, rejected = (
            part + [0.0] * (size - len(part)) for part, size in zip((logps[:first], logps[first:]), sizes, strict=True)
        )
        made.append(replace(pair, chosen_values=chosen, rejected_values=rejected))
    return made, encoded.dropped
