"""A look inside preference pairs: what the trainer would compute for each, token by token."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sparsepo.data.collation import TokenPair, collate, onto
from sparsepo.methods.registry import check_pair_method
from sparsepo.models.loading import context_of
from sparsepo.objective.mask_builder import Masks
from sparsepo.objective.response_terms import Side
from sparsepo.runtime.errors import UserError
from sparsepo.training.checks import check_brought
from sparsepo.training.pair_objective import PairObjective, PairOutput, masks_for
from sparsepo.training.step_statistics import statistic_of


@torch.no_grad()
def inspect_pairs(
    policy: Any,
    reference: Any,
    pairs: Sequence[TokenPair | Mapping[str, Sequence[int]]],
    method: str,
    hyper: Mapping[str, Any] | None = None,
    masks: Masks | None = None,
    *,
    batch_size: int = 8,
    layout: str = "padded",
) -> list[dict[str, Any]]:
    """What the trainer would compute for each pair, token by token.

    pairs: token ids, `TokenPair` or mappings with `prompt`, `chosen`, `rejected`, and `values` and `scores` (of chosen
    and rejected) where the method or its mask reads them. All are one step for a method that looks at a step. hyper:
    what to change from the method's defaults in `METHODS`. masks: trained heads; None builds the method's own from its
    defaults, calibrated on all pairs given. layout: one of `data.collation.LAYOUTS`; the numbers are the same in all
    that a model can do. The models' mode and dtype are left as they are (call `.eval()` for a model with dropout).

    Returns a dict a pair: `loss`, `penalty` (the masks' L1, contained in `loss`), `reward_chosen`, `reward_rejected`,
    and for `chosen` and `rejected` one list each, a number a response token, of `logps`, `ref_logps`, `reverse_kl`,
    `forward_kl`, `m_u` and `m_d` for methods with masks, and `values` where the pairs have them. Raises UserError for
    an unknown method or parameter, for a pair with an empty part, and for what pairs lack.
    """
    row = check_pair_method(method, hyper or {})
    loss_hyper, _ = row.split(hyper or {})
    made = [_token_pair(pair) for pair in pairs]
    device = next(policy.parameters()).device

    def batch_of(places: Sequence[int]) -> dict[str, Any]:
        return onto(device, collate([made[place] for place in places], pad_id=0, layout=layout))

    own = masks if masks is not None else masks_for(method, reference, hyper or {})
    objective = PairObjective(policy, reference, method, loss_hyper, own)
    check_brought(method, hyper or {}, made)
    statistic = statistic_of(method, hyper or {}, made, layout, context_of(policy))
    batches = [range(start, min(start + batch_size, len(made))) for start in range(0, len(made), batch_size)]
    if own is not None:
        own.to(device)
    if masks is None and made:
        objective.calibrate(map(batch_of, batches))
    step = [batch_of(places) | {"pairs": tuple(places), "weight": 1} for places in batches]
    if statistic is not None:
        statistic.prepare(objective, step, list, seed=0, trains=False)
    return [record for batch in step for record in describe(objective(batch))]


def _token_pair(pair: TokenPair | Mapping[str, Sequence[int]]) -> TokenPair:
    parts = vars(pair) if isinstance(pair, TokenPair) else pair
    try:
        ids = (list(map(int, parts[name])) for name in ("prompt", "chosen", "rejected"))
        made = TokenPair(*ids, parts.get("values"), parts.get("scores"))
    except KeyError as error:
        raise UserError(f"a pair needs token ids of prompt, chosen and rejected; {error} is missing") from None
    if not (made.prompt and made.chosen and made.rejected):
        raise UserError("a pair needs at least one token each in prompt, chosen and rejected")
    return made


def describe(outcome: PairOutput) -> list[dict[str, Any]]:
    """One plain dict a pair; see `inspect_pairs`."""
    scalars = {
        "loss": outcome.loss,
        "penalty": outcome.penalty,
        "reward_chosen": outcome.pair.chosen_reward,
        "reward_rejected": outcome.pair.rejected_reward,
    }
    columns = {name: value.tolist() for name, value in scalars.items()}
    return [
        {name: values[at] for name, values in columns.items()}
        | {"chosen": _tokens(outcome.chosen, at), "rejected": _tokens(outcome.rejected, at)}
        for at in range(len(columns["loss"]))
    ]


def _tokens(side: Side, at: int) -> dict[str, list[float]]:
    keep = side.valid[at]
    return {name: value[at][keep].tolist() for name, value in side.by_token.items()}
