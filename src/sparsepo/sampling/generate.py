"""Sampling responses: batches fixed by the prompts, seeded one by one, so that text never depends on scheduling."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from sparsepo.config import SamplingConfig
from sparsepo.data.collation import encode_prompt
from sparsepo.data.records import Completion, Prompt
from sparsepo.errors import UserError
from sparsepo.models import context_of


@torch.no_grad()
def sample(model: Any, tokenizer: Any, prompts: Sequence[Prompt], config: SamplingConfig) -> list[Completion]:
    """`config.samples` responses a prompt, in the order of the prompts; the global random state is left as it was.

    Prompts are batched by length. Each batch is seeded from (seed, its prompts, how many equal batches came before), so
    it gives the same text whatever else is sampled. top_k is 0 explicitly: transformers would otherwise apply 50; and
    a model's own generation config, which may penalise repetition, is set aside. The model is left as it was.
    """
    requests = [(place, prompt) for place, prompt in enumerate(prompts) for _ in range(config.samples)]
    encoded = {prompt.prompt: encode_prompt(tokenizer, prompt.prompt) for prompt in prompts}
    requests.sort(key=lambda request: len(encoded[request[1].prompt]))  # stable: ties keep the order of the prompts
    found: list[tuple[int, Completion]] = []
    was_training, own_config, seen = model.training, model.generation_config, Counter()
    model.eval()
    model.generation_config = GenerationConfig()
    with torch.random.fork_rng():
        for start in range(0, len(requests), config.batch_size):
            batch = requests[start : start + config.batch_size]
            rows = [encoded[prompt.prompt] for _, prompt in batch]
            torch.manual_seed(batch_seed(config.seed, rows, seen[repr(rows)]))
            seen[repr(rows)] += 1
            for (place, prompt), tokens in zip(batch, _generate(model, tokenizer, rows, config), strict=True):
                found.append((place, completion(tokenizer, prompt.prompt, tokens)))
    model.train(was_training)
    model.generation_config = own_config
    return [made for _, made in sorted(found, key=lambda pair: pair[0])]


def batch_seed(seed: int, rows: Sequence[Sequence[int]], again: int) -> int:
    """A 63-bit seed from the config's seed, the batch's token ids, and how many equal batches came before it."""
    digest = hashlib.sha256(repr((seed, rows, again)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def completion(tokenizer: Any, prompt: str, tokens: list[int]) -> Completion:
    """A record of the tokens up to and with the first end token.

    `text` is what they add to the decoded prompt, so that prompt + text reads as it should: whether a space stands
    between the two is the tokenizer's to say.
    """
    end = tokenizer.eos_token_id
    ended = end in tokens
    tokens = tokens[: tokens.index(end) + 1] if ended else tokens
    before = encode_prompt(tokenizer, prompt)
    whole, start = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (before + tokens, before))
    text = whole[len(start) :] if whole.startswith(start) else tokenizer.decode(tokens, skip_special_tokens=True)
    return Completion(prompt, text, tokens, ended)


def _generate(model: Any, tokenizer: Any, rows: list[list[int]], config: SamplingConfig) -> list[list[int]]:
    longest = max(map(len, rows))
    pad, device = tokenizer.pad_token_id, next(model.parameters()).device
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=True,
        temperature=config.temperature,
        top_p=config.top_p,
        top_k=0,
        max_new_tokens=config.max_new_tokens,
        pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
    )
    return out[:, longest:].tolist()


def check_room(model: Any, tokenizer: Any, prompts: Sequence[Prompt], config: SamplingConfig, path: str | Path) -> None:
    """Raises UserError, naming file and line, when a prompt and its response do not fit into the model's context."""
    context = context_of(model)
    for line, prompt in enumerate(prompts, start=1):
        length = len(encode_prompt(tokenizer, prompt.prompt))
        if length == 0 or length + config.max_new_tokens > context:
            raise UserError(
                f"{path}:{line}: field 'prompt' has {length} tokens; with max_new_tokens {config.max_new_tokens} a "
                f"prompt needs 1 to {context - config.max_new_tokens} to fit the model's context of {context}"
            )
