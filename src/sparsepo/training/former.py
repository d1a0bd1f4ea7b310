"""What the policy that pairs were sampled from says of them."""

from collections.abc import Sequence
from typing import Any

from sparsepo.config.training import PreferenceConfig
from sparsepo.data.collation import encode_pairs, with_values
from sparsepo.data.records import Preference
from sparsepo.models.loading import context_of
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
        logps, first = known[at].tolist(), len(encoded.pairs[at].chosen)
        made.append(with_values(tokenizer, pairs[place], logps[:first], logps[first:]))
    return made, encoded.dropped
