"""How far a policy is from its reference on the responses it samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sparsepo.data.collation import collate_responses, encode_prompt, onto, rows_of
from sparsepo.data.records import Completion
from sparsepo.models.architecture import hidden_states, lm_head
from sparsepo.objective.token_terms import token_terms


@dataclass(frozen=True)
class Divergence:
    """Of one response y of the policy, nats.

    sample: sum_t log pi(y_t) - log ref(y_t); its mean over samples estimates KL(pi || ref) without bias, a single value
    may be negative. exact: sum_t KL(pi(. | y_<t) || ref(. | y_<t)) over the whole vocabulary; the same expectation
    with less noise. logp: sum_t log pi(y_t), whose mean is minus the entropy of the policy's responses.
    """

    sample: float
    exact: float
    logp: float


@torch.no_grad()
def divergences(
    policy: Any, reference: Any, tokenizer: Any, completions: Sequence[Completion], batch_size: int
) -> list[Divergence]:
    """One a completion, in their order. The sampled token ids are used as they are, never the text tokenised anew."""
    order = sorted(range(len(completions)), key=lambda at: len(completions[at].tokens))
    found: dict[int, Divergence] = {}
    device = next(policy.parameters()).device
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        prompts = [encode_prompt(tokenizer, completions[at].prompt) for at in places]
        tokens = [completions[at].tokens for at in places]
        batch = onto(device, collate_responses(prompts, tokens, tokenizer.pad_token_id))
        rows = rows_of(batch)
        hidden, ref_hidden = (rows.take(hidden_states(model, batch)) for model in (policy, reference))
        labels = rows.labels(batch["input_ids"])
        terms = token_terms(hidden, ref_hidden, lm_head(policy), lm_head(reference), labels, kl=("reverse",))
        sample = rows.grid(terms.logps - terms.ref_logps).sum(-1).tolist()
        exact = rows.grid(terms.reverse_kl).sum(-1).tolist()
        logp = rows.grid(terms.logps).sum(-1).tolist()
        made = map(Divergence, sample, exact, logp)
        found |= dict(zip(places, made, strict=True))
    return [found[at] for at in range(len(completions))]
