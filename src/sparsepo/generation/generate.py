"""Sampling responses: every one is drawn with numbers of its own, so that text never depends on scheduling."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from sparsepo.config.preferences import SamplingConfig
from sparsepo.data.collation import encode_prompt
from sparsepo.data.records import Completion, Prompt
from sparsepo.generation.decoding import Draw, Ending, decode, is_plain
from sparsepo.generation.vllm import VllmEngine, vllm_usable
from sparsepo.models.loading import context_of, load_model
from sparsepo.runtime.errors import UserError
from sparsepo.runtime.progress import progress
from sparsepo.runtime.result_cache import ResultCache, get_or_compute


def ending(tokenizer: Any, stops: Sequence[str]) -> Ending:
    """Whether tokens end with the end token or their text holds one of `stops`.

    Asked after every token, so only the last tokens are decoded: a stop of n bytes spans at most n of them, and one
    more keeps the space that some decoders drop at the start. What looks like a stop there is looked for in the whole.
    """
    end, reach = tokenizer.eos_token_id, 1 + max((len(stop.encode()) for stop in stops), default=0)

    def holds(tokens: list[int]) -> bool:
        return cut(tokenizer.decode(tokens, skip_special_tokens=True), stops) is not None

    def over(tokens: list[int]) -> bool:
        return tokens[-1] == end or bool(stops and holds(tokens[-reach:]) and holds(tokens))

    return over


def cut(text: str, stops: Sequence[str]) -> str | None:
    """The text before the first of `stops` in it; None where there is none.

    >>> cut("return x\\n# so\\nprint(x)", ("\\nprint", "\\n#"))
    'return x'
    """
    places = [place for place in map(text.find, stops) if place >= 0]
    return text[: min(places)] if places else None


def row_seed(seed: int, row: Sequence[int], again: int) -> int:
    """63 bits from the config's seed, the prompt's ids, and its earlier samples' number."""
    digest = hashlib.sha256(repr((seed, list(row), again)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def row_uniforms(seed: int, row: Sequence[int], again: int, count: int) -> Tensor:
    """`count` float64 numbers in [0, 1) that belong to one response; see `row_seed`."""
    generator = torch.Generator().manual_seed(row_seed(seed, row, again))
    return torch.rand(count, generator=generator, dtype=torch.float64)


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token a row: the place where the cumulative probability first exceeds `uniform`, a float64 number a row.

    (b v), (b) -> (b). The same number gives the same token whatever the other rows are. top_p keeps the fewest, most
    likely tokens that hold this share. Cumulative sums are float64, so that a rare token keeps its share of 49,152;
    `uniform` < 1 then never reaches past the end. Raises UserError for logits that are no distribution.
    """
    probabilities, order = (logits.float() / temperature).softmax(-1), None
    if probabilities.device.type == "mps":  # has no float64
        probabilities = probabilities.cpu()
    if top_p < 1:
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    whole = cumulative[:, -1:]
    if not whole.isfinite().all():
        raise UserError("the model's logits are not finite, so nothing can be sampled from it; its training diverged")
    if order is not None:
        whole = cumulative.gather(1, (cumulative < top_p * whole).sum(-1, keepdim=True))
    place = torch.searchsorted(cumulative, uniform.to(whole.device)[:, None] * whole, right=True)
    return (place if order is None else order.gather(1, place))[:, 0].to(logits.device)


Rows = list[list[int]]  # token ids
BLOCK = 4096  # requests handed to vLLM at once, which batches them by itself


def sampling_dtype() -> str:
    """`bfloat16` on a CUDA device that computes in it, else `float32`."""
    native = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if native else "float32"


def backend_for(folder: str | Path, **loading: str) -> Any:
    """What `sample` draws from, for the policy of a folder: vLLM where it can be used, else the model of transformers.

    `loading` is handed to `load_model`; weights in 4 bits are never given to vLLM.
    """
    if vllm_usable() and not loading:
        return VllmEngine(folder, sampling_dtype())
    return load_model(folder, sampling_dtype(), **loading)


@dataclass(frozen=True)
class Request:
    """One response that is wanted: to which prompt, its ids, and how many samples of these ids came before."""

    place: int
    row: list[int]
    again: int


@torch.no_grad()
def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    config: SamplingConfig,
    stops: Sequence[str] = (),
    kept: ResultCache | None = None,
    *,
    quiet: bool = False,
) -> list[Completion]:
    """`config.samples` responses a prompt, in the order of the prompts; the program's random state is not used.

    Prompts are batched by length, as far as a model continues each as it would alone. Each response is drawn with
    numbers from (seed, its prompt, how many samples of this prompt came before), so a batch gives the same text
    whatever else is sampled, and another batch size another text by rounding only. A response ends with the end token,
    at `max_new_tokens`, or as soon as its text holds one of `stops`. A model that `decode` does not know is given to
    transformers' `generate`. top_k is off and a model's own generation config, which may penalise repetition, is set
    aside. The model is left as it was. A batch that is `kept` is not sampled again, and the others are what they would
    be. `quiet`: tell nobody how far it is.
    """
    wanted, mixes = requests(tokenizer, prompts, config), True
    if isinstance(model, VllmEngine):
        size, answer = BLOCK, partial(_by_vllm, model, tokenizer.eos_token_id, config, stops)
    else:
        size, answer = config.batch_size, partial(_by_transformers, model, tokenizer, config, ending(tokenizer, stops))
        mixes, size = batching_limits(model, tokenizer, size, quiet)
    how = [config.model_dump(mode="json"), list(stops)]

    def answered(batch: Sequence[Request]) -> Rows:
        return get_or_compute(kept, [how, [[request.row, request.again] for request in batch]], lambda: answer(batch))

    answers = _in_batches(wanted, size, mixes, answered, quiet)
    found = [
        (request.place, completion(tokenizer, prompts[request.place], tokens, config.temperature, stops))
        for request, tokens in answers
    ]
    return [made for _, made in sorted(found, key=lambda pair: pair[0])]


def requests(tokenizer: Any, prompts: Sequence[Prompt], config: SamplingConfig) -> list[Request]:
    """Short prompts first; of one length in the order of the prompts, so that samples of a prompt stand together."""
    encoded = {text: encode_prompt(tokenizer, text) for text in dict.fromkeys(prompt.prompt for prompt in prompts)}
    seen, found = Counter(), []
    for place, prompt in enumerate(prompts):
        row = encoded[prompt.prompt]
        for _ in range(config.samples):
            found.append(Request(place, row, seen[tuple(row)]))
            seen[tuple(row)] += 1
    return sorted(found, key=lambda request: len(request.row))


def _in_batches(
    wanted: Sequence[Request], size: int, mixes: bool, answer: Callable[[Sequence[Request]], Rows], quiet: bool
) -> Iterator[tuple[Request, list[int]]]:
    """Each request and the tokens that answer it; rows of unlike length share a batch only where that `mixes` well."""
    groups = [wanted] if mixes else [list(group) for _, group in groupby(wanted, lambda request: len(request.row))]
    batches = [group[start : start + size] for group in groups for start in range(0, len(group), size)]
    for batch in batches if quiet else progress(batches, len(wanted), "responses sampled", size=len):
        yield from zip(batch, answer(batch), strict=True)


def _by_vllm(
    model: VllmEngine, end: int, config: SamplingConfig, stops: Sequence[str], batch: Sequence[Request]
) -> Rows:
    seeds = [row_seed(config.seed, request.row, request.again) for request in batch]
    return model.continued([request.row for request in batch], seeds, end, config, stops)


def _by_transformers(
    model: Any, tokenizer: Any, config: SamplingConfig, over: Ending, batch: Sequence[Request]
) -> Rows:
    rows, most, was_training = [request.row for request in batch], config.max_new_tokens, model.training
    uniforms = [row_uniforms(config.seed, request.row, request.again, most) for request in batch]
    chosen = chooser(torch.stack(uniforms), config)
    model.eval()
    if is_plain(model):
        found = decode(model, rows, chosen, over, most)
    else:
        found = _generated(model, tokenizer, rows, chosen, over, most)
    model.train(was_training)
    return found


def chooser(uniforms: Tensor, config: SamplingConfig) -> Draw:
    """How the rows of a batch draw: row r takes number `uniforms[r, step]`, (b t)."""
    return lambda logits, rows, step: draw(logits, uniforms[rows, step], config.temperature, config.top_p)


def completion(
    tokenizer: Any, prompt: Prompt, tokens: list[int], temperature: float = 1.0, stops: Sequence[str] = ()
) -> Completion:
    """A record of the tokens up to and with the first end token; its text is cut before the first of `stops`.

    `text` is what they add to the decoded prompt, so that prompt + text reads as it should: whether a space stands
    between the two is the tokenizer's to say. A response that was cut has ended, and keeps the tokens of its stop.
    """
    end = tokenizer.eos_token_id
    ended = end in tokens
    tokens = tokens[: tokens.index(end) + 1] if ended else tokens
    before = encode_prompt(tokenizer, prompt.prompt)
    whole, start = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (before + tokens, before))
    text = whole[len(start) :] if whole.startswith(start) else tokenizer.decode(tokens, skip_special_tokens=True)
    kept = cut(text, stops)
    if kept is not None:
        text, ended = kept, True
    return Completion(prompt.prompt, text, tokens, ended, id=prompt.id, temperature=temperature)


def _generated(model: Any, tokenizer: Any, rows: Rows, chosen: Draw, over: Ending, most: int) -> Rows:
    """As `decode`, for any model: `generate` takes the most likely token, and all others are made impossible."""
    longest = max(map(len, rows))
    pad, device = tokenizer.pad_token_id, next(model.parameters()).device

    def only_chosen(ids: Tensor, logits: Tensor) -> Tensor:
        tokens = chosen(logits, torch.arange(len(rows)), ids.shape[1] - longest)
        return torch.full_like(logits, float("-inf")).scatter(1, tokens[:, None], 0.0)

    def are_over(ids: Tensor, scores: Any) -> Tensor:
        return torch.tensor([over(tokens) for tokens in ids[:, longest:].tolist()], device=ids.device)

    own_config, model.generation_config = model.generation_config, GenerationConfig()
    out = model.generate(
        input_ids=torch.tensor([[pad] * (longest - len(row)) + row for row in rows], device=device),
        attention_mask=torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device),
        do_sample=False,
        logits_processor=[only_chosen],
        stopping_criteria=[are_over],
        max_new_tokens=most,
        pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
    )
    model.generation_config = own_config
    return [_until(over, tokens) for tokens in out[:, longest:].tolist()]


def batching_limits(model: Any, tokenizer: Any, size: int, quiet: bool) -> tuple[bool, int]:
    """(whether rows of unlike length may share a batch, how many rows may); a line where it is not as was wanted."""
    if size == 1 or is_plain(model) or is_padding_invariant(model, tokenizer, beside=8):
        return True, size
    alike = is_padding_invariant(model, tokenizer, beside=2)
    if not quiet:
        apart = "in batches of one length" if alike else "one at a time"
        print(f"{type(model).__name__} sees what stands beside a prompt: sampled {apart}", flush=True)
    return False, size if alike else 1


@torch.no_grad()
def is_padding_invariant(model: Any, tokenizer: Any, beside: int) -> bool:
    """Whether `generate` continues a prompt of 2 tokens beside one of so many as it does alone, by three steps' logits.

    Not so where states run on through padding, where places count from the left whatever the mask says, and, in RWKV
    of transformers 5.23, in any batch.
    """
    size, was_training = model.config.vocab_size, model.training
    other, prompt = ([token % size for token in range(first, first + many)] for first, many in ((3, beside), (13, 2)))
    going = next(token for token in (1, 2) if token != tokenizer.eos_token_id)

    def told(rows: Rows) -> Tensor:
        """(3, v): to the last row."""
        kept: list[Tensor] = []

        def keep(logits: Tensor, _: Tensor, step: int) -> Tensor:
            kept.append(logits[-1].float())
            return torch.full_like(logits[:, 0], going, dtype=torch.long)

        _generated(model, tokenizer, rows, keep, lambda tokens: False, 3)
        return torch.stack(kept)

    model.eval()
    together, alone = told([other, prompt]), told([prompt])
    model.train(was_training)
    apart = (together - alone).square().mean(-1).sqrt() / alone.std(-1)
    return bool(apart.median() <= (0.05 if model.dtype in (torch.bfloat16, torch.float16) else 0.02))  # else 0.13 to 1


def _until(over: Ending, tokens: list[int]) -> list[int]:
    """The tokens without the padding that follows where a response is over."""
    return next((tokens[:size] for size in range(1, len(tokens)) if over(tokens[:size])), tokens)


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
