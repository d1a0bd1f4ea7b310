"""One step of preference optimisation as a module: policy, reference, masks and a loss; and a look inside a pair."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparsepo.anatomy import hidden_states, lm_head
from sparsepo.data.collation import TokenPair, collate, onto, rows_of
from sparsepo.errors import UserError
from sparsepo.objective.fused import LEAST
from sparsepo.objective.losses import LOSSES, PairLoss, Side
from sparsepo.objective.masks import Masks, Views, build_masks
from sparsepo.objective.methods import METHODS, check_pair_method
from sparsepo.objective.terms import KL, Rows, SummedLoss, TokenTerms, token_terms
from sparsepo.training.views import look


class Outcome(NamedTuple):
    """What one batch of b pairs gave: loss and rewards, both sides token by token, and the mask penalty (b,).

    total: the sum of `loss`, a scalar that carries the gradient; `loss` itself does so too, unless gradients were
    computed in the forward pass. A tuple, in which whatever wraps the module finds tensors.
    """

    pair: PairLoss
    chosen: Side
    rejected: Side
    penalty: Tensor
    total: Tensor

    @property
    def loss(self) -> Tensor:
        """(b,) what is minimised."""
        return self.pair.loss + self.penalty


class PairObjective(nn.Module):
    """policy + mask heads (trained, saved) and the reference (not a submodule, run without gradient).

    `hyper` are the loss's keywords. `kl`: the directions to compute besides those that the loss needs. `gradients`:
    `recompute`, of the logits (see `token_terms`) and, where a batch has segments, of attention; or `forward`.
    Where batches bring what is needed of the reference, see `training.reference`, it is not run; if it is None, all of
    them must, and its output head is the policy's at this moment.
    """

    def __init__(
        self,
        policy: Any,
        reference: Any | None,
        method: str,
        hyper: Mapping[str, Any],
        masks: Masks | None,
        *,
        kl: Sequence[str] = KL,
        gradients: str = "recompute",
    ):
        super().__init__()
        self.policy = policy
        self.masks = masks
        self.gradients = gradients
        self._no_split_modules = policy._no_split_modules  # the blocks, which FSDP shards one by one
        self._reference = (reference,)
        self._ref_head = lm_head(policy).copy() if reference is None else None
        self._loss = LOSSES[METHODS[method].loss]
        self._hyper = dict(hyper)
        self._kl = tuple(name for name in KL if name in {*kl, *METHODS[method].kl_directions(hyper)})
        self._blind = not METHODS[method].needs_reference and not kl  # SimPO, where nobody logs a KL

    @property
    def reference(self) -> Any | None:
        return self._reference[0]

    def forward(self, batch: dict[str, Any]) -> Outcome:
        rows = rows_of(batch)
        known = self.known(batch, rows)
        weights = {} if self.masks is None else dict(zip(("m_u", "m_d"), self.masks(known.views), strict=True))
        again = self.gradients == "recompute"
        hidden = rows.take(hidden_states(self.policy, {**batch, "again": again}))
        kl = self._kl if known.hidden is not None else ()
        head = None if known.hidden is None else self._ref_head or lm_head(self.reference)
        where = (hidden, known.hidden, lm_head(self.policy), head, rows.labels(batch["input_ids"]))
        if self.gradients == "recompute" or not torch.is_grad_enabled():
            return self._judge(rows, token_terms(*where, kl=kl), weights, known.logps)
        return self._judge_in_forward(rows, batch["ends"], where, kl, weights, known.logps)

    def _judge_in_forward(self, rows, ends, where, kl, weights, ref_logps) -> Outcome:
        """Group by group of whole pairs; what is logged is computed again from the finished terms, without gradient."""
        half, names = len(rows.valid) // 2, list(weights)
        groups = groups_of(ends)
        parts = {
            at.start: rows.part(at, torch.tensor([*pairs, *(half + pair for pair in pairs)], device=rows.slot.device))
            for at, pairs in groups
        }

        def loss_of(at: slice, terms: TokenTerms, values: Sequence[Tensor]) -> Tensor:
            part = parts[at.start]
            grids = {name: part.grid(value) for name, value in zip(names, values, strict=True)}
            return self._judge(part, terms, grids, None if ref_logps is None else ref_logps[at]).total

        tokens = [rows.tokens(weights[name]) for name in names]
        terms = token_terms(*where, kl=kl, loss=SummedLoss(loss_of, [at for at, _ in groups], tokens))
        with torch.no_grad():
            outcome = self._judge(rows, terms, weights, ref_logps)
        return outcome._replace(total=terms.total)

    def _judge(self, rows: Rows, terms: TokenTerms, weights: Mapping[str, Tensor], ref_logps: Tensor | None) -> Outcome:
        """The loss of these terms; `weights` m_u and m_d are grids, `ref_logps` are known ones."""
        ref_logps = terms.ref_logps if ref_logps is None else ref_logps
        by_row = {"logps": terms.logps, "ref_logps": ref_logps}
        by_row |= {"reverse_kl": terms.reverse_kl, "forward_kl": terms.forward_kl}
        tokens = {name: None if value is None else rows.grid(value) for name, value in by_row.items()} | dict(weights)
        penalty = terms.logps.new_zeros(len(rows.valid))
        if self.masks is not None:
            penalty = self.masks.penalty(tokens["m_u"], tokens["m_d"], rows.valid)
        chosen, rejected = _split(tokens, rows.valid)
        half = len(rows.valid) // 2
        result, penalty = self._loss(chosen, rejected, **self._hyper), penalty[:half] + penalty[half:]
        total = (result.loss + penalty).sum()  # FSDP: a view that carries a gradient must not leave the module
        still = {name: None if value is None else value.detach() for name, value in tokens.items()}
        return Outcome(result, *_split(still, rows.valid), penalty, total)

    def known(self, batch: dict[str, Any], rows: Rows) -> "Known":
        """What the batch brings of the reference, or what the reference says of the batch."""
        if self._blind:
            return Known(None, None, Views(rows.valid))
        if self.reference is None or "ref_states" in batch or "ref_logps" in batch:
            weights = batch.get("ref_weights")
            views = Views(rows.valid, weights=None if weights is None else rows.grid(weights))
            return Known(batch.get("ref_states"), batch.get("ref_logps"), views)
        hidden, views = look(self.reference, self.masks, batch, rows)
        return Known(hidden, None, views)

    def calibrate(self, batches: Iterable[dict[str, Any]]) -> None:
        """Start learned mask heads alive on the tokens of these batches."""
        if self.masks is not None and self.masks.learned:
            with torch.no_grad():
                self.masks.calibrate(look(self.reference, self.masks, batch, rows_of(batch))[1] for batch in batches)


@dataclass(frozen=True)
class Known:
    """Of the reference: last hidden states (n, d) or else log-probs (n,) or neither, and what the masks look at."""

    hidden: Tensor | None
    logps: Tensor | None
    views: Views


def groups_of(ends: Sequence[int], least: int = LEAST) -> list[tuple[slice, range]]:
    """Rows and pairs of groups that hold whole pairs and, but for the last, at least `least` rows."""
    found, row, first = [], 0, 0
    for pair, end in enumerate(ends):
        if end - row >= least or pair == len(ends) - 1:
            found.append((slice(row, end), range(first, pair + 1)))
            row, first = end, pair + 1
    return found


def _split(tokens: dict[str, Tensor | None], valid: Tensor) -> tuple[Side, Side]:
    half = len(valid) // 2
    chosen = {name: None if value is None else value[:half] for name, value in tokens.items()}
    rejected = {name: None if value is None else value[half:] for name, value in tokens.items()}
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
    layout: str = "padded",
) -> list[dict[str, Any]]:
    """What the trainer would compute for each pair, token by token.

    pairs: token ids, `TokenPair` or mappings with `prompt`, `chosen`, `rejected`. hyper: what to change from the
    method's defaults in `METHODS`. masks: trained heads; None builds the method's own from its defaults, calibrated on
    all pairs given. layout: one of `data.collation.LAYOUTS`; the numbers are the same in all that a model can do. The
    models' mode and dtype are left as they are (call `.eval()` for a model with dropout).

    Returns a dict a pair: `loss`, `penalty` (the masks' L1, contained in `loss`), `reward_chosen`,
    `reward_rejected`, and for `chosen` and `rejected` one list each, a number a response token, of `logps`,
    `ref_logps`, `reverse_kl`, `forward_kl`, and `m_u`, `m_d` for methods with masks. Raises UserError for an unknown
    method or parameter and for a pair with an empty part.
    """
    loss_hyper, _ = check_pair_method(method, hyper or {}).split(hyper or {})
    made = [_token_pair(pair) for pair in pairs]
    device = next(policy.parameters()).device

    def batch_of(some: Sequence[TokenPair]) -> dict[str, Any]:
        return onto(device, collate(some, pad_id=0, layout=layout))

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
