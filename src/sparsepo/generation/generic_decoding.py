"""Decoding for any model through transformers' `generate`, and how far prompts of such a model can share a batch."""

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from sparsepo.generation.sampler import DrawTokens, IsComplete
from sparsepo.models.limits import vocabulary_size


def decode_with_generate(
    model: Any,
    prompts: list[list[int]],
    draw: DrawTokens,
    is_complete: IsComplete,
    limit: int,
    *,
    pad: int,
    end: list[int],
) -> list[list[int]]:
    """As `decode`, for any model: `generate` takes the most likely token, and all but the drawn one are excluded."""
    longest = max(map(len, prompts))
    device = next(model.parameters()).device

    def keep_drawn(ids: Tensor, logits: Tensor) -> Tensor:
        tokens = draw(logits, torch.arange(len(prompts)), ids.shape[1] - longest)
        return torch.full_like(logits, float("-inf")).scatter(1, tokens[:, None], 0.0)

    def are_complete(ids: Tensor, scores: Any) -> Tensor:
        return torch.tensor([is_complete(tokens) for tokens in ids[:, longest:].tolist()], device=ids.device)

    own_config, model.generation_config = model.generation_config, GenerationConfig()
    ids = model.generate(
        input_ids=torch.tensor([[pad] * (longest - len(row)) + row for row in prompts], device=device),
        attention_mask=torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts], device=device),
        do_sample=False,
        logits_processor=[keep_drawn],
        stopping_criteria=[are_complete],
        max_new_tokens=limit,
        pad_token_id=pad,
        eos_token_id=end,
    )
    model.generation_config = own_config
    return [_without_padding(is_complete, tokens) for tokens in ids[:, longest:].tolist()]


def _without_padding(is_complete: IsComplete, tokens: list[int]) -> list[int]:
    """The tokens of a response without the padding after its end."""
    return next((tokens[:size] for size in range(1, len(tokens)) if is_complete(tokens[:size])), tokens)


def batching_limits(model: Any, tokenizer: Any, size: int, quiet: bool) -> tuple[bool, int]:
    """(whether prompts of different lengths can share a batch, the batch size); prints a line if that is a limit."""
    if size == 1 or is_padding_invariant(model, tokenizer, other_length=8):
        return True, size
    same_length = is_padding_invariant(model, tokenizer, other_length=2)
    if not quiet:
        limit = "in batches of one length" if same_length else "one at a time"
        print(f"batched sampling changes what {type(model).__name__} answers: prompts are sampled {limit}", flush=True)
    return False, size if same_length else 1


@torch.no_grad()
def is_padding_invariant(model: Any, tokenizer: Any, other_length: int) -> bool:
    """Whether `generate` continues a prompt of 2 tokens in a batch with a longer one as it does alone.

    Compared are the logits of three steps. They differ where states run on through padding, where positions count from
    the left whatever the mask says, and, for RWKV of transformers 5.23, in any batch.
    """
    size, was_training = vocabulary_size(model), model.training
    other, prompt = (
        [token % size for token in range(first, first + length)] for first, length in ((3, other_length), (13, 2))
    )
    next_token = next(token for token in (1, 2) if token != tokenizer.eos_token_id)

    def last_logits(prompts: list[list[int]]) -> Tensor:
        """(3, v): of the last prompt."""
        steps: list[Tensor] = []

        def record(logits: Tensor, _: Tensor, step: int) -> Tensor:
            steps.append(logits[-1].float())
            return torch.full_like(logits[:, 0], next_token, dtype=torch.long)

        ids = {"pad": tokenizer.pad_token_id, "end": [tokenizer.eos_token_id]}
        decode_with_generate(model, prompts, record, lambda tokens: False, limit=3, **ids)
        return torch.stack(steps)

    model.eval()
    batched, alone = last_logits([other, prompt]), last_logits([prompt])
    model.train(was_training)
    difference = (batched - alone).square().mean(-1).sqrt() / alone.std(-1)
    tolerance = 0.05 if model.dtype in (torch.bfloat16, torch.float16) else 0.02  # real differences are 0.13 to 1
    return bool(difference.median() <= tolerance)
