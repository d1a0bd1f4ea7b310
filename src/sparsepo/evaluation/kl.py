"""How far a policy is from its reference on the responses it samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparsepo.data.collation import collate_responses
from sparsepo.data.encoding import Encoder
from sparsepo.data.records import Completion
from sparsepo.models.architecture import hidden_states, lm_head
from sparsepo.objective.token_terms import token_terms


@dataclass(frozen=True)
class ResponseDivergence:
    """The divergence of the policy from the reference on one response y of the policy, nats.

    sample: sum_t log pi(y_t) - log ref(y_t); its mean over samples estimates KL(pi || ref) without bias, a single value
    may be negative. exact: sum_t KL(pi(. | y_<t) || ref(. | y_<t)) over the whole vocabulary; the same expectation
    with less noise. logp: sum_t log pi(y_t), whose mean is minus the entropy of the policy's responses.
    """

    sample: float
    exact: float
    logp: float


@torch.no_grad()
def response_divergences(
    policy: Any, reference: Any, tokenizer: Any, completions: Sequence[Completion], batch_size: int
) -> list[ResponseDivergence]:
    """One of each completion, in their order, of the sampled token ids; no text is tokenised again."""
    order = sorted(range(len(completions)), key=lambda index: len(completions[index].tokens))
    divergences: dict[int, ResponseDivergence] = {}
    device, encoder = next(policy.parameters()).device, Encoder(tokenizer)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        prompts = [encoder.prompt_ids(completions[index]) for index in indices]
        tokens = [completions[index].tokens for index in indices]
        batch = collate_responses(prompts, tokens, tokenizer.pad_token_id).to(device)
        index = batch.responses
        hidden, ref_hidden = (index.select_hidden(hidden_states(model, batch.inputs)) for model in (policy, reference))
        terms = token_terms(hidden, ref_hidden, lm_head(policy), lm_head(reference), batch.labels, kl=("reverse",))
        sample = index.to_grid(terms.logps - terms.ref_logps).sum(-1).tolist()
        exact = index.to_grid(terms.reverse_kl).sum(-1).tolist()
        logp = index.to_grid(terms.logps).sum(-1).tolist()
        divergences |= zip(indices, map(ResponseDivergence, sample, exact, logp), strict=True)
    return [divergences[index] for index in range(len(completions))]
