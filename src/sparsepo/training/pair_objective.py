"""One step of preference optimisation as a module: policy, reference, masks and a loss."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparsepo.data.collation import rows_of
from sparsepo.methods.registry import METHODS
from sparsepo.models.architecture import hidden_states, lm_head, recording
from sparsepo.objective.fused_head import rows_together
from sparsepo.objective.losses import LOSSES
from sparsepo.objective.mask_builder import Masks, build_masks
from sparsepo.objective.masks import MaskInputs
from sparsepo.objective.response_terms import PairLoss, Side
from sparsepo.objective.token_terms import KL, ResponseIndex, SummedLoss, TokenTerms, token_terms
from sparsepo.runtime.errors import UserError


def look(reference: Any, masks: Masks | None, batch: dict[str, Any], rows: ResponseIndex) -> tuple[Tensor, MaskInputs]:
    """The reference's last hidden states at the response rows (n, d), and what the masks make of it.

    The reference runs without gradient. Learned heads project each layer's states as soon as they are there; no layer
    is stored for them.
    """
    heads = () if masks is None else list(masks.heads.values())
    kinds = {kind for head in heads for kind in getattr(head, "kinds", ())}
    projected: dict[str, list[Tensor]] = {}
    trains, shape = torch.is_grad_enabled(), batch["input_ids"].shape

    def see(layer: int, depth: int, states: Tensor) -> None:
        with torch.set_grad_enabled(trains):
            for name, made in masks.project(layer, depth, rows.take(states)).items():
                projected.setdefault(name, []).append(made)

    learns = masks is not None and "states" in masks.looks_at
    with torch.no_grad(), recording(reference, kinds) as record:
        hidden = rows.take(hidden_states(reference, batch, see if learns else None))
    grids = {name: rows.grid(torch.cat(made, -1)) for name, made in projected.items()}
    odd = next((kind for kind in kinds for value in record[kind] if value.numel() != shape.numel()), None)
    if odd is not None:
        raise UserError(
            f"{type(reference).__name__}: its '{odd}' has not one value a token; use other `activation_sites`"
        )
    activations = {kind: [rows.grid(rows.take(value.view(shape))) for value in record[kind]] for kind in kinds}
    return hidden, MaskInputs(rows.valid, activations=activations, projected=grids, values=values_of(batch, rows))


def values_of(batch: dict[str, Any], rows: ResponseIndex) -> Tensor | None:
    """(s, t): the numbers that the pairs of a batch bring for their tokens, if they do."""
    return rows.grid(batch["values"]) if "values" in batch else None


class PairOutput(NamedTuple):
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
        compares = METHODS[method].needs_reference or (masks is not None and "policy" in masks.looks_at)
        self._blind = not compares and not kl  # SimPO, where nobody logs a KL

    @property
    def reference(self) -> Any | None:
        return self._reference[0]

    def forward(self, batch: dict[str, Any]) -> PairOutput | tuple[Side, Side]:
        """What the step makes of a batch; of one that says `look`, only the two sides that a statistic looks at."""
        if batch.get("look"):
            return self._look(batch)
        rows = rows_of(batch)
        known = self.known(batch, rows)
        hidden = rows.take(hidden_states(self.policy, {**batch, "again": self.gradients == "recompute"}))
        where = self._where(hidden, known, rows.labels(batch["input_ids"]))
        weights = self._weights(known, rows, where)
        kl = self._kl if known.hidden is not None else ()
        if self.gradients == "recompute" or not torch.is_grad_enabled():
            return self._judge(rows, token_terms(*where, kl=kl), weights, known)
        return self._judge_in_forward(rows, batch["ends"], where, kl, weights, known)

    @torch.no_grad()
    def _look(self, batch: dict[str, Any]) -> tuple[Side, Side]:
        """Log-probs of both sides, without gradient, masks, KL and loss."""
        rows = rows_of(batch)
        known = self.known(batch, rows)
        where = self._where(rows.take(hidden_states(self.policy, batch)), known, rows.labels(batch["input_ids"]))
        terms = token_terms(*where, kl=())
        ref_logps = terms.ref_logps if known.logps is None else known.logps
        tokens = {"logps": terms.logps, "ref_logps": ref_logps, "reverse_kl": None, "forward_kl": None}
        return _split({name: None if value is None else rows.grid(value) for name, value in tokens.items()}, rows.valid)

    def _where(self, hidden: Tensor, known: "ReferenceOutputs", labels: Tensor) -> tuple:
        """What `token_terms` takes."""
        head = None if known.hidden is None else self._ref_head or lm_head(self.reference)
        return hidden, known.hidden, lm_head(self.policy), head, labels

    def _weights(self, known: "ReferenceOutputs", rows: ResponseIndex, where: tuple) -> dict[str, Tensor]:
        """m_u and m_d, grids; without masks none."""
        if self.masks is None:
            return {}
        views = known.views
        if "policy" in self.masks.looks_at:
            with torch.no_grad():
                terms = token_terms(*where, kl=())
            ref_logps = terms.ref_logps if known.logps is None else known.logps
            views = replace(views, logratio=rows.grid(terms.logps - ref_logps))
        return dict(zip(("m_u", "m_d"), self.masks(views), strict=True))

    def _judge_in_forward(self, rows, ends, where, kl, weights, known: "ReferenceOutputs") -> PairOutput:
        """Group by group of whole pairs; what is logged is computed again from the finished terms, without gradient."""
        half, names = len(rows.valid) // 2, list(weights)
        groups = groups_of(ends, rows_together(lm_head(self.policy).weight))
        parts = {}
        for at, pairs in groups:
            responses = torch.tensor([*pairs, *(half + pair for pair in pairs)], device=rows.slot.device)
            parts[at.start] = rows.part(at, responses), known.part(at, responses)

        def loss_of(at: slice, terms: TokenTerms, values: Sequence[Tensor]) -> Tensor:
            part, known_there = parts[at.start]
            grids = {name: part.grid(value) for name, value in zip(names, values, strict=True)}
            return self._judge(part, terms, grids, known_there).total

        tokens = [rows.tokens(weights[name]) for name in names]
        terms = token_terms(*where, kl=kl, loss=SummedLoss(loss_of, [at for at, _ in groups], tokens))
        with torch.no_grad():
            outcome = self._judge(rows, terms, weights, known)
        return outcome._replace(total=terms.total)

    def _judge(
        self, rows: ResponseIndex, terms: TokenTerms, weights: Mapping[str, Tensor], known: "ReferenceOutputs"
    ) -> PairOutput:
        """The loss of these terms; `weights` m_u and m_d are grids."""
        ref_logps = terms.ref_logps if known.logps is None else known.logps
        by_row = {"logps": terms.logps, "ref_logps": ref_logps, "values": known.values}
        by_row |= {"reverse_kl": terms.reverse_kl, "forward_kl": terms.forward_kl}
        tokens = {name: None if value is None else rows.grid(value) for name, value in by_row.items()} | dict(weights)
        tokens["score"] = known.scores
        penalty = terms.logps.new_zeros(len(rows.valid))
        if self.masks is not None:
            penalty = self.masks.penalty(tokens["m_u"], tokens["m_d"], rows.valid)
        chosen, rejected = _split(tokens, rows.valid)
        half = len(rows.valid) // 2
        result, penalty = self._loss(chosen, rejected, **{**self._hyper, **known.step}), penalty[:half] + penalty[half:]
        if known.share is not None:
            result, penalty = replace(result, loss=known.share * result.loss), known.share * penalty
        total = (result.loss + penalty).sum()  # FSDP: a view that carries a gradient must not leave the module
        still = {name: None if value is None else value.detach() for name, value in tokens.items()}
        return PairOutput(result, *_split(still, rows.valid), penalty, total)

    def known(self, batch: dict[str, Any], rows: ResponseIndex) -> "ReferenceOutputs":
        """What the batch brings of the reference, or what the reference says of the batch, and what its pairs bring."""
        brought = {"values": batch.get("values"), "scores": batch.get("scores")}
        brought |= {"step": batch.get("step", {}), "share": batch.get("share")}
        if self._blind:
            return ReferenceOutputs(None, None, MaskInputs(rows.valid, values=values_of(batch, rows)), **brought)
        if self.reference is None or "ref_states" in batch or "ref_logps" in batch:
            weights = batch.get("ref_weights")
            grid = None if weights is None else rows.grid(weights)
            views = MaskInputs(rows.valid, weights=grid, values=values_of(batch, rows))
            return ReferenceOutputs(batch.get("ref_states"), batch.get("ref_logps"), views, **brought)
        hidden, views = look(self.reference, self.masks, batch, rows)
        return ReferenceOutputs(hidden, None, views, **brought)

    def calibrate(self, batches: Iterable[dict[str, Any]]) -> None:
        """Start learned mask heads alive on the tokens of these batches."""
        if self.masks is not None and self.masks.learned:
            with torch.no_grad():
                self.masks.calibrate(look(self.reference, self.masks, batch, rows_of(batch))[1] for batch in batches)


@dataclass(frozen=True)
class ReferenceOutputs:
    """What is known of a batch beside the policy.

    hidden: last hidden states of the reference (n, d), or else logps: its log-probs (n,), or neither. views: what masks
    look at. values (n,), scores (2b,): what the pairs bring. step: keywords of the loss that the whole step has in
    common; share: (b,) factors on the losses of the pairs. Both are made by `training.statistics`.
    """

    hidden: Tensor | None
    logps: Tensor | None
    views: MaskInputs
    values: Tensor | None = None
    scores: Tensor | None = None
    step: Mapping[str, Tensor] = field(default_factory=dict)
    share: Tensor | None = None

    def part(self, at: slice, responses: Tensor) -> "ReferenceOutputs":
        """What a loss looks at of some rows and the responses (2k,) that they make up."""
        pairs = responses[: len(responses) // 2]
        where = {"logps": at, "values": at, "scores": responses, "share": pairs}
        found = {name: getattr(self, name) for name in where}
        return replace(self, **{name: value[where[name]] for name, value in found.items() if value is not None})


def groups_of(ends: Sequence[int], least: int) -> list[tuple[slice, range]]:
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
    wanted = METHODS[method].split(given)[1]
    config = reference.config
    return build_masks(config.num_hidden_layers, config.hidden_size, **wanted) if wanted else None
