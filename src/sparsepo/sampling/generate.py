"""Sampling responses: every one is drawn with numbers of its own, so that text never depends on scheduling."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from sparsepo.config import SamplingConfig
from sparsepo.data.collation import encode_prompt
from sparsepo.data.records import Completion, Prompt
from sparsepo.errors import UserError
from sparsepo.models import context_of
from sparsepo.sampling.decoding import Draw, decode, is_plain
from sparsepo.sampling.draws import draw, row_uniforms

Rows = list[list[int]]  # token ids


@torch.no_grad()
def sample(model: Any, tokenizer: Any, prompts: Sequence[Prompt], config: SamplingConfig) -> list[Completion]:
    """`config.samples` responses a prompt, in the order of the prompts; the program's random state is not used.

    Prompts are batched by length. Each response is drawn with numbers from (seed, its prompt, how many samples of this
    prompt came before), so a batch gives the same text whatever else is sampled, and another batch size another text
    by rounding only. A model that `decode` does not know is given to transformers' `generate`. top_k is off and a
    model's own generation config, which may penalise repetition, is set aside. The model is left as it was.
    """
    requests = [(place, prompt.prompt) for place, prompt in enumerate(prompts) for _ in range(config.samples)]
    encoded = {prompt.prompt: encode_prompt(tokenizer, prompt.prompt) for prompt in prompts}
    requests.sort(key=lambda request: len(encoded[request[1]]))  # stable: ties keep the order of the prompts
    found: list[tuple[int, Completion]] = []
    was_training, seen = model.training, Counter()
    model.eval()
    continued = _decoded if is_plain(model) else _generated
    for start in range(0, len(requests), config.batch_size):
        batch = requests[start : start + config.batch_size]
        rows, uniforms = [encoded[prompt] for _, prompt in batch], []
        for row in rows:
            uniforms.append(row_uniforms(config.seed, row, seen[tuple(row)], config.max_new_tokens))
            seen[tuple(row)] += 1
        chosen = chooser(torch.stack(uniforms), config)
        for (place, prompt), tokens in zip(batch, continued(model, tokenizer, rows, chosen, config), strict=True):
            found.append((place, completion(tokenizer, prompt, tokens)))
    model.train(was_training)
    return [made for _, made in sorted(found, key=lambda pair: pair[0])]


def chooser(uniforms: Tensor, config: SamplingConfig) -> Draw:
    """How the rows of a batch draw: row r takes number `uniforms[r, step]`, (b t)."""
    return lambda logits, rows, step: draw(logits, uniforms[rows, step], config.temperature, config.top_p)


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


def _decoded(model: Any, tokenizer: Any, rows: Rows, chosen: Draw, config: SamplingConfig) -> Rows:
    return decode(model, rows, chosen, tokenizer.eos_token_id, config.max_new_tokens)


def _generated(model: Any, tokenizer: Any, rows: Rows, chosen: Draw, config: SamplingConfig) -> Rows:
    """As `_decoded`, for any model: `generate` takes the most likely token, and all others are made impossible."""
    longest = max(map(len, rows))
    pad, device = tokenizer.pad_token_id, next(model.parameters()).device

    def only_chosen(ids: Tensor, logits: Tensor) -> Tensor:
        tokens = chosen(logits, torch.arange(len(rows)), ids.shape[1] - longest)
        return torch.full_like(logits, float("-inf")).scatter(1, tokens[:, None], 0.0)

    own_config, model.generation_config = model.generation_config, GenerationConfig()
    out = model.generate(
        input_ids=torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=device),
        attention_mask=torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device),
        do_sample=False,
        logits_processor=[only_chosen],
        max_new_tokens=config.max_new_tokens,
        pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
    )
    model.generation_config = own_config
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
