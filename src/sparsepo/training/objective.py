"""One step of preference optimisation as a module: policy, reference, masks and a loss; and a look inside a pair."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sparsepo.data.collation import TokenPair, collate, rows_of
from sparsepo.errors import UserError
from sparsepo.models import hidden_states, lm_head, recording
from sparsepo.objective import losses
from sparsepo.objective.losses import PairLoss, Side
from sparsepo.objective.masks import Masks, Views, build_masks
from sparsepo.objective.methods import METHODS, check_parameters
from sparsepo.objective.terms import Rows, token_terms


@dataclass(frozen=True)
class Outcome:
    """What one batch of b pairs gave: loss and rewards, both sides token by token, and the mask penalty (b,)."""

    pair: PairLoss
    chosen: Side
    rejected: Side
    penalty: Tensor

    @property
    def loss(self) -> Tensor:
        """(b,) what is minimised."""
        return self.pair.loss + self.penalty


class PairObjective(nn.Module):
    """policy + mask heads (trained, saved) and the reference (not a submodule, run without gradient).

    `hyper` are the loss's keywords. Position ids are explicit, so that padding never moves a token.
    """

    def __init__(self, policy: Any, reference: Any, method: str, hyper: Mapping[str, Any], masks: Masks | None):
        super().__init__()
        self.policy = policy
        self.masks = masks
        self._reference = (reference,)
        self._loss = getattr(losses, METHODS[method].loss)
        self._hyper = dict(hyper)

    @property
    def reference(self) -> Any:
        return self._reference[0]

    def forward(self, batch: dict[str, Tensor]) -> Outcome:
        rows = rows_of(batch)
        ref_hidden, views = self.look(batch, rows)
        hidden = rows.take(hidden_states(self.policy, batch)[-1])
        terms = token_terms(
            hidden, ref_hidden, lm_head(self.policy), lm_head(self.reference), rows.labels(batch["input_ids"])
        )
        tokens = {name: rows.grid(value) for name, value in vars(terms).items()}
        penalty = hidden.new_zeros(len(rows.valid), dtype=terms.logps.dtype)
        if self.masks is not None:
            tokens["m_u"], tokens["m_d"] = self.masks(views)
            penalty = self.masks.penalty(tokens["m_u"], tokens["m_d"], rows.valid)
        chosen, rejected = _split(tokens, rows.valid)
        half = len(rows.valid) // 2
        result = self._loss(chosen, rejected, **self._hyper)
        return Outcome(result, chosen, rejected, penalty[:half] + penalty[half:])

    @torch.no_grad()
    def look(self, batch: dict[str, Tensor], rows: Rows) -> tuple[Tensor, Views]:
        """The reference's last hidden states at the response rows (n, d), and what the masks want to see of it."""
        wants = self.masks.looks_at if self.masks is not None else set()
        kinds = {kind for head in _heads(self.masks) for kind in getattr(head, "kinds", ())}
        with recording(self.reference, kinds) as record:
            states = hidden_states(self.reference, batch, every="states" in wants)
        views = Views(
            valid=rows.valid,
            states=[rows.grid(rows.take(state)) for state in states] if "states" in wants else (),
            activations={kind: [rows.grid(rows.take(value)) for value in record[kind]] for kind in kinds},
        )
        return rows.take(states[-1]), views

    def calibrate(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Start learned mask heads alive on the tokens of these batches."""
        if self.masks is not None:
            self.masks.calibrate(self.look(batch, rows_of(batch))[1] for batch in batches)


def _heads(masks: Masks | None) -> Sequence[Any]:
    return () if masks is None else list(masks.heads.values())


def _split(tokens: dict[str, Tensor], valid: Tensor) -> tuple[Side, Side]:
    half = len(valid) // 2
    chosen = {name: value[:half] for name, value in tokens.items()}
    rejected = {name: value[half:] for name, value in tokens.items()}
    return Side(**chosen, valid=valid[:half]), Side(**rejected, valid=valid[half:])


def masks_for(method: str, reference: Any, given: Mapping[str, Any]) -> Masks | None:
    """The mask heads of a method for this reference, or None; `given` overrides the table's defaults."""
    row = METHODS[method]
    if not row.has_masks:
        return None
    config = reference.config
    return build_masks(config.num_hidden_layers, config.hidden_size, **row.split(given)[1])


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
) -> list[dict[str, Any]]:
    """What the trainer would compute for each pair, token by token.

    pairs: token ids, `TokenPair` or mappings with `prompt`, `chosen`, `rejected`. hyper: what to change from the
    method's defaults in `METHODS`. masks: trained heads; None builds the method's own from its defaults, calibrated on
    all pairs given. The models' mode and dtype are left as they are (call `.eval()` for a model with dropout).

    Returns a dict a pair: `loss`, `penalty` (the masks' L1, contained in `loss`), `reward_chosen`,
    `reward_rejected`, and for `chosen` and `rejected` one list each, a number a response token, of `logps`,
    `ref_logps`, `reverse_kl`, `forward_kl`, and `m_u`, `m_d` for methods with masks. Raises UserError for an unknown
    method or parameter and for a pair with an empty part.
    """
    loss_hyper, _ = check_parameters(method, hyper or {}).split(hyper or {})
    made = [_token_pair(pair) for pair in pairs]
    device = next(policy.parameters()).device

    def batch_of(some: Sequence[TokenPair]) -> dict[str, Tensor]:
        return {name: value.to(device) for name, value in collate(some, pad_id=0).items()}

    own = masks if masks is not None else masks_for(method, reference, hyper or {})
    objective = PairObjective(policy, reference, method, loss_hyper, own)
    batches = [made[start : start + batch_size] for start in range(0, len(made), batch_size)]
    if own is not None:
        own.to(device)
    if masks is None and made:
        objective.calibrate(map(batch_of, batches))
    return [record for batch in batches for record in describe(objective(batch_of(batch)))]


def _token_pair(pair: TokenPair | Mapping[str, Sequence[int]]) -> TokenPair:
    parts = vars(pair) if isinstance(pair, TokenPair) else pair
    try:
        made = TokenPair(*(list(map(int, parts[name])) for name in ("prompt", "chosen", "rejected")))
    except KeyError as error:
        raise UserError(f"a pair needs token ids of prompt, chosen and rejected; {error} is missing") from None
    if not (made.prompt and made.chosen and made.rejected):
        raise UserError("a pair needs at least one token each in prompt, chosen and rejected")
    return made


def describe(outcome: Outcome) -> list[dict[str, Any]]:
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
    named = {name: value for name, value in vars(side).items() if name != "valid" and value is not None}
    return {name: value[at][keep].tolist() for name, value in named.items()}
