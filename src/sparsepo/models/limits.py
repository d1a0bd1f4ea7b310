"""What a causal LM can read: how many tokens at once, and which ids."""

from collections.abc import Iterable, Sequence
from typing import Any

from sparsepo.runtime.errors import UserError

NO_LIMIT = 1_000_000


def text_config(model: Any) -> Any:
    """The model's config; of a model for text and images, the part for text."""
    return model.config.get_text_config(decoder=True)


def context_length(model: Any) -> int:
    """How many tokens the model can read at once; a million for a model without a limit."""
    return config_context_length(text_config(model))


def config_context_length(config: Any) -> int:
    """The same by the config of the text part. MPT calls its limit `max_seq_len`."""
    limits = (getattr(config, name, None) for name in ("max_position_embeddings", "max_seq_len"))
    return next(filter(None, limits), NO_LIMIT)


def vocabulary_size(model: Any) -> int:
    """Rows of the model's embedding: it can read the ids below."""
    return model.get_input_embeddings().weight.shape[0]


def check_sequences(model: Any, sequences: Iterable[Sequence[int]]) -> None:
    """Raises UserError unless the model can read these token ids, and reads each sequence alike in any batch.

    The last is not so where a sequence of the batch is longer than the short table of a `longrope` embedding (Phi-3).
    """
    name, size = type(model).__name__, vocabulary_size(model)
    context, short = context_length(model), _short_table(model)
    for ids in sequences:
        if not 0 <= min(ids) <= max(ids) < size:
            outside = next(token for token in ids if not 0 <= token < size)
            raise UserError(
                f"token id {outside} is outside of the vocabulary of {name}, ids 0 to {size - 1}: use the model's own "
                "tokenizer, or call resize_token_embeddings of both policy and reference for tokens that were added"
            )
        if len(ids) > context:
            raise UserError(f"a sequence has {len(ids)} tokens, and {name} can read {context}")
        if len(ids) > short:
            raise UserError(
                f"a sequence has {len(ids)} tokens, and above {short} the positions of {name} (longrope) depend on the "
                "other sequences of its batch: reduce max_prompt_tokens and max_response_tokens, or max_tokens of SFT"
            )


def _short_table(model: Any) -> float:
    """The longest batch that a `longrope` embedding reads with its short table; infinite for other embeddings."""
    parameters = getattr(text_config(model), "rope_parameters", None) or {}
    tables = [parameters] if "rope_type" in parameters else parameters.values()  # one a type of layer
    long = [table for table in tables if isinstance(table, dict) and table.get("rope_type") == "longrope"]
    return min((table["original_max_position_embeddings"] for table in long), default=float("inf"))
