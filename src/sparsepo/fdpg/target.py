"""The target of an on-policy run, from a reward or from a feature with a wanted mean, and the prompts it can use."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparsepo.config.preferences import SamplingConfig
from sparsepo.config.training import PreferenceConfig
from sparsepo.data.chat import scored_prompt
from sparsepo.data.encoding import Encoder
from sparsepo.data.records import Prompt
from sparsepo.evaluation.scorers import Scorer
from sparsepo.generation.generate import sample
from sparsepo.objective.f_divergence import fit_scale


@dataclass(frozen=True)
class Target:
    """log P(x|c) = log a(x|c) + scale * value(c, x), a the reference; `name` is what its values are logged as."""

    name: str
    value: Scorer
    scale: float


def usable_prompts(
    tokenizer: Any, prompts: Sequence[Prompt], config: PreferenceConfig, sampling: SamplingConfig, context: int
) -> tuple[list[Prompt], dict[str, int]]:
    """Prompts that responses can be sampled to, and how many others were dropped for which reason."""
    kept, dropped, encoder = [], Counter(), Encoder(tokenizer)
    for prompt in prompts:
        length = len(encoder.prompt_ids(prompt))
        if length == 0:
            dropped["prompt is empty"] += 1
        elif length > config.max_prompt_tokens:
            dropped[f"prompt is longer than {config.max_prompt_tokens} tokens"] += 1
        elif length + sampling.max_new_tokens > context:
            dropped[f"no room for {sampling.max_new_tokens} tokens in a context of {context}"] += 1
        else:
            kept.append(prompt)
    return kept, dict(dropped)


def fit_target(
    reference: Any, tokenizer: Any, prompts: Sequence[Prompt], feature: Scorer, mean: float, sampling: SamplingConfig
) -> Target:
    """The target nearest to the reference, by KL(p || a), with this mean of a feature over the prompts.

    p(x|c) ~ a(x|c) exp(lambda feature), with one lambda for all prompts, fitted to samples of the reference. Raises
    UserError for a mean that these samples cannot have.
    """
    samples = sample(reference, tokenizer, prompts, sampling)
    values = torch.tensor(feature([scored_prompt(row) for row in samples], [row.text for row in samples]))
    scale = fit_scale(values.unflatten(0, (-1, sampling.samples)), mean)
    print(f"feature: mean {values.mean():.4g} of the reference, wanted {mean:g}: lambda {scale:.4g}", flush=True)
    return Target("feature", feature, scale)


def contains_word(words: Sequence[str]) -> Scorer:
    """1 where the response has one of these whole words, in upper or lower case, else 0; the prompt is not read.

    >>> contains_word(["good"])(["", ""], ["A Good film", "goodness"])
    [1.0, 0.0]
    """
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
    return lambda prompts, texts: [float(pattern.search(text) is not None) for text in texts]
