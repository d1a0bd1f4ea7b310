"""Sampling responses: each is drawn with random numbers of its own, so that its text never depends on scheduling."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from sparsepo.config.preferences import SamplingConfig
from sparsepo.data.encoding import Encoder
from sparsepo.data.records import Completion, Prompt
from sparsepo.generation.decoding import decode, is_plain
from sparsepo.generation.generic_decoding import batching_limits, decode_with_generate
from sparsepo.generation.sampler import (
    IsComplete,
    cut_at_stop,
    response_seed,
    response_uniforms,
    stop_criterion,
    token_drawer,
)
from sparsepo.generation.vllm import VllmEngine, vllm_usable
from sparsepo.models.architecture import without_router_loss
from sparsepo.models.limits import context_length
from sparsepo.models.loading import load_model
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.progress import progress
from sparsepo.runtime.result_cache import ResultCache, get_or_compute

VLLM_BATCH = 4096  # requests given to vLLM at once, which batches them itself


def sampling_dtype() -> str:
    """`bfloat16` on a CUDA device that computes in it, else `float32`."""
    native = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if native else "float32"


def load_backend(folder: str | Path, **loading: str) -> Any:
    """The policy of a folder for `sample`: in vLLM where it can be used, else a model of transformers.

    `loading`: arguments of `load_model`; weights in 4 bits are never given to vLLM.
    """
    if not loading and vllm_usable(folder):
        return VllmEngine(folder, sampling_dtype())
    return load_model(folder, sampling_dtype(), **loading)


@dataclass(frozen=True)
class ResponseRequest:
    """A response to sample: the index and the ids of its prompt, and the number of earlier samples of these ids."""

    index: int
    prompt_ids: list[int]
    number: int


Answer = Callable[[Sequence[ResponseRequest]], list[list[int]]]
"""A batch of requests -> the tokens of each response."""


@torch.no_grad()
def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    config: SamplingConfig,
    stops: Sequence[str] = (),
    cache: ResultCache | None = None,
    *,
    quiet: bool = False,
) -> list[Completion]:
    """`config.samples` responses to each prompt, in the order of the prompts; torch's random state is not used.

    Each response is drawn with numbers from (seed, its prompt, the number of earlier samples of this prompt). A batch
    gives the same texts whatever else is sampled, and another batch size changes texts by rounding only. Prompts are
    batched by length, as far as the model continues each of them as it would alone.

    A response ends with the end token, at `max_new_tokens`, or as soon as its text contains one of `stops`. top_k is
    off, and the model's own generation config, which may penalise repetition, is not used. The model is left in its
    mode of training. Batches in the `cache` are not sampled again. `quiet`: without progress.
    """
    encoder = Encoder(tokenizer, model)
    requests, mixes_lengths = response_requests(encoder, prompts, config), True
    if isinstance(model, VllmEngine):
        batch_size, answer = VLLM_BATCH, _vllm_answer(model, encoder, config, stops)
    else:
        batch_size, continue_prompts = config.batch_size, decode
        if not is_plain(model):
            with without_router_loss(model):
                mixes_lengths, batch_size = batching_limits(model, tokenizer, batch_size, quiet)
            continue_prompts = partial(decode_with_generate, pad=tokenizer.pad_token_id, end=sorted(encoder.end_ids))
        is_complete = stop_criterion(tokenizer, encoder.end_ids, stops)
        answer = _transformers_answer(model, continue_prompts, config, is_complete)
    settings = [config.model_dump(mode="json"), list(stops)]

    def cached_answer(batch: Sequence[ResponseRequest]) -> list[list[int]]:
        key = [settings, [[request.prompt_ids, request.number] for request in batch]]
        return get_or_compute(cache, key, lambda: answer(batch))

    completions = [
        (request.index, make_completion(encoder, prompts[request.index], tokens, config.temperature, stops))
        for request, tokens in _answer_in_batches(requests, batch_size, mixes_lengths, cached_answer, quiet)
    ]
    return [completion for _, completion in sorted(completions, key=lambda item: item[0])]


def response_requests(encoder: Encoder, prompts: Sequence[Prompt], config: SamplingConfig) -> list[ResponseRequest]:
    """Short prompts first; of one length in the order of the prompts, so that samples of a prompt are neighbours."""
    counts: Counter[tuple[int, ...]] = Counter()
    requests = []
    for index, prompt in enumerate(prompts):
        ids = encoder.prompt_ids(prompt)
        for _ in range(config.samples):
            requests.append(ResponseRequest(index, ids, counts[tuple(ids)]))
            counts[tuple(ids)] += 1
    return sorted(requests, key=lambda request: len(request.prompt_ids))


def _answer_in_batches(
    requests: Sequence[ResponseRequest], size: int, mixes_lengths: bool, answer: Answer, quiet: bool
) -> Iterator[tuple[ResponseRequest, list[int]]]:
    """Each request and the tokens of its response; without `mixes_lengths`, a batch has prompts of one length."""
    groups = [requests]
    if not mixes_lengths:
        groups = [list(group) for _, group in groupby(requests, lambda request: len(request.prompt_ids))]
    batches = [group[start : start + size] for group in groups for start in range(0, len(group), size)]
    for batch in batches if quiet else progress(batches, len(requests), "responses sampled", size=len):
        yield from zip(batch, answer(batch), strict=True)


def _vllm_answer(model: VllmEngine, encoder: Encoder, config: SamplingConfig, stops: Sequence[str]) -> Answer:
    def answer(batch: Sequence[ResponseRequest]) -> list[list[int]]:
        seeds = [response_seed(config.seed, request.prompt_ids, request.number) for request in batch]
        prompt_ids = [request.prompt_ids for request in batch]
        return model.continue_prompts(prompt_ids, seeds, sorted(encoder.end_ids), config, stops)

    return answer


def _transformers_answer(
    model: Any, continue_prompts: Callable[..., list[list[int]]], config: SamplingConfig, is_complete: IsComplete
) -> Answer:
    limit = config.max_new_tokens

    def answer(batch: Sequence[ResponseRequest]) -> list[list[int]]:
        prompt_ids, was_training = [request.prompt_ids for request in batch], model.training
        uniforms = [response_uniforms(config.seed, request.prompt_ids, request.number, limit) for request in batch]
        draw = token_drawer(torch.stack(uniforms), config.temperature, config.top_p)
        model.eval()
        with without_router_loss(model):
            responses = continue_prompts(model, prompt_ids, draw, is_complete, limit)
        model.train(was_training)
        return responses

    return answer


def make_completion(
    encoder: Encoder, prompt: Prompt, tokens: list[int], temperature: float = 1.0, stops: Sequence[str] = ()
) -> Completion:
    """The record of a response: its tokens up to and with the first end token, its text cut before the first stop.

    `text` is what the tokens add to the decoded prompt, so that prompt + text has a space between the two where the
    tokenizer puts one. A response that was cut has ended, and keeps the tokens of its stop.
    """
    tokenizer, end = encoder.tokenizer, next((at for at, token in enumerate(tokens) if token in encoder.end_ids), None)
    ended = end is not None
    tokens = tokens[: end + 1] if ended else tokens
    prompt_ids = encoder.prompt_ids(prompt)
    whole, start = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt_ids + tokens, prompt_ids))
    text = whole[len(start) :] if whole.startswith(start) else tokenizer.decode(tokens, skip_special_tokens=True)
    cut_text = cut_at_stop(text, stops)
    if cut_text is not None:
        text, ended = cut_text, True
    same = {name: getattr(prompt, name) for name in ("id", "messages", "rendered", "columns")}
    return Completion(prompt.prompt, text, tokens, ended, temperature=temperature, **same)


def check_prompt_lengths(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], config: SamplingConfig, path: str | Path
) -> None:
    """Raises UserError, naming file and line, when a prompt and its response do not fit into the model's context."""
    context, encoder = context_length(model), Encoder(tokenizer, model)
    for line, prompt in enumerate(prompts, start=1):
        length = len(encoder.prompt_ids(prompt))
        if length == 0 or length + config.max_new_tokens > context:
            raise UserError(
                f"{path}:{line}: field 'prompt' has {length} tokens; with max_new_tokens {config.max_new_tokens} a "
                f"prompt needs 1 to {context - config.max_new_tokens} to fit the model's context of {context}"
            )
