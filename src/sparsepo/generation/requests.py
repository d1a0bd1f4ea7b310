"""What the stages share that sample a policy: each says only which prompts are answered, and how."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sparsepo.config.preferences import SamplingConfig
from sparsepo.data.records import Completion, Prompt
from sparsepo.generation.generate import check_prompt_lengths, load_backend, sample
from sparsepo.models.loading import load_tokenizer
from sparsepo.runtime.result_cache import ResultCache


@dataclass(frozen=True)
class SplitRequest:
    """Prompts of a split (`test` or `validation`) and how they are answered; `source` names them in errors."""

    split: str
    prompts: list[Prompt]
    source: Path
    sampling: SamplingConfig
    stops: Sequence[str] = ()


def sample_requests(
    requests: Iterable[SplitRequest], policy: Path, loading: dict[str, bool | str], cache: ResultCache
) -> list[Completion]:
    """The responses of a policy to all requests, in their order.

    policy: its model folder; loading: keyword arguments of `load_model`. Finished batches are kept in `cache`.
    """
    model, tokenizer = load_backend(policy, **loading), load_tokenizer(policy)
    responses = []
    for request in requests:
        check_prompt_lengths(model, tokenizer, request.prompts, request.sampling, request.source)
        rows = sample(model, tokenizer, request.prompts, request.sampling, request.stops, cache)
        responses += [replace(row, split=request.split) for row in rows]
    return responses
