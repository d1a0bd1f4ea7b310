"""One step of preference optimisation as a module: policy, reference, masks and a loss."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparsepo.data.batches import PairBatch
from sparsepo.methods.registry import METHODS
from sparsepo.models.activations import record_activations
from sparsepo.models.architecture import LayerCallback, add_router_loss, hidden_states, lm_head, run_backbone
from sparsepo.objective import losses
from sparsepo.objective.fused_head import rows_per_group
from sparsepo.objective.lm_head import LMHead
from sparsepo.objective.mask_builder import Masks
from sparsepo.objective.masks import MaskInputs
from sparsepo.objective.own_loss import check_loss
from sparsepo.objective.response_terms import PairLoss, Side, weighted_sum
from sparsepo.objective.token_terms import KL_DIRECTIONS, SummedLoss, TokenTerms, token_entropy, token_terms
from sparsepo.runtime.user_code import load_object


class PairOutput(NamedTuple):
    """Loss and rewards of b pairs, both sides token by token, and the L1 penalty of the masks (b,).

    total: the sum of `loss`, a scalar with gradient, and of the router loss, see `add_router_loss`. `loss` has a
    gradient too, unless gradients were computed in the forward pass. A tuple, so that modules that wrap this one (DDP,
    FSDP) find the tensors.
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


class ReferenceOutputs(NamedTuple):
    """Of the reference for a batch: last hidden states (n, d) where something needs them, and what mask heads read."""

    hidden: Tensor | None
    mask_inputs: MaskInputs


class PairObjective(nn.Module):
    """Policy and mask heads, which are trained and saved, and the reference (not a submodule, without gradient).

    hyper: the keywords of the loss. kl: the directions to compute besides those that the loss needs. gradients:
    `recompute`, in the backward pass, the logits (see `token_terms`) and the attention of segments; or `forward`.
    The reference is not run for batches with stored outputs of it, see `training.reference_cache`. If it is None, all
    batches must have them, and its output head is a copy of the policy's at this moment.
    """

    def __init__(
        self,
        policy: Any,
        reference: Any | None,
        method: str,
        hyper: Mapping[str, Any],
        masks: Masks | None,
        *,
        kl: Sequence[str] = KL_DIRECTIONS,
        gradients: str = "recompute",
    ):
        super().__init__()
        self.policy = policy
        self.masks = masks
        self.recomputes = gradients == "recompute"
        self._no_split_modules = policy._no_split_modules  # the blocks, which FSDP shards one by one
        self._reference = (reference,)  # in a tuple, so that it is not a submodule
        self._ref_head = lm_head(policy).frozen_copy() if reference is None else None
        row, self._hyper = METHODS[method], dict(hyper)
        self._loss = load_object(row.loss) if ":" in row.loss else getattr(losses, row.loss)
        if ":" in row.loss and not row.statistic:
            needs = {name: getattr(row, name) for name in ("needs_reference", "needs_scores", "needs_values", "kl")}
            check_loss(method, self._loss, self._hyper, has_weights=masks is not None, **needs)
        self._kl = tuple(name for name in KL_DIRECTIONS if name in {*kl, *METHODS[method].kl_directions(hyper)})
        mask_reads = set() if masks is None else masks.reads
        reads_reference = bool(mask_reads & {"hidden_states", "activations", "logratio", "entropy"})
        self.response_states = response_states  # in place of it runs of one process share its results
        self._needs_reference = METHODS[method].needs_reference or reads_reference or bool(kl)

    @property
    def reference(self) -> Any | None:
        return self._reference[0]

    def forward(
        self, batch: PairBatch, *, logratios_only: bool = False, mask_sums_only: bool = False
    ) -> PairOutput | tuple[Tensor, ...]:
        """Loss, rewards and token terms of a batch.

        `logratios_only`: instead sum_t log pi/ref of the chosen and of the rejected responses, (b,) each, no gradient.
        `mask_sums_only`: instead the sums of m_u and of m_d over all response tokens, and their number, no gradient.
        """
        if logratios_only:
            return self._logratios(batch)
        if mask_sums_only:
            return self._mask_sums(batch)
        reference = self._reference_outputs(batch, self.masks)
        outputs = run_backbone(self.policy, batch.inputs, recompute_attention=self.recomputes)
        hidden = batch.responses.select_hidden(outputs.last_hidden_state)
        weights = self._mask_weights(batch, hidden, reference)
        if self.masks is not None and self.masks.normalise == "mean" and batch.mask_means is None:
            sums, count = token_sums(weights, batch)
            batch = replace(batch, mask_means={name: total / count for name, total in sums.items()})
        if self.recomputes or not torch.is_grad_enabled():
            terms = self._token_terms(batch, hidden, reference, self._kl)
            output = self._pair_output(batch, terms, weights)
        else:
            output = self._pair_output_with_gradients(batch, hidden, reference, weights)
        total = add_router_loss(output.total, batch.num_pairs, self.policy, outputs, batch.inputs)
        return output._replace(total=total)

    def _reference_outputs(self, batch: PairBatch, masks: Masks | None) -> ReferenceOutputs:
        if batch.has_reference or self.reference is None or not self._needs_reference:
            return stored_outputs(batch)
        return run_reference(self.reference, masks, batch, self.response_states)

    def _token_terms(
        self,
        batch: PairBatch,
        hidden: Tensor,
        reference: ReferenceOutputs,
        kl: Sequence[str],
        loss: SummedLoss | None = None,
    ) -> TokenTerms:
        """Terms of all response tokens; a KL only where there are states of the reference."""
        if reference.hidden is None:
            return token_terms(hidden, None, lm_head(self.policy), None, batch.labels, kl=(), loss=loss)
        heads = lm_head(self.policy), self._reference_head()
        return token_terms(hidden, reference.hidden, *heads, batch.labels, kl=kl, loss=loss)

    def _reference_head(self) -> LMHead:
        return self._ref_head or lm_head(self.reference)

    def _mask_weights(self, batch: PairBatch, hidden: Tensor, reference: ReferenceOutputs) -> dict[str, Tensor]:
        """The grids m_u and m_d; empty without masks."""
        if self.masks is None:
            return {}
        inputs = reference.mask_inputs
        if "logratio" in self.masks.reads:
            with torch.no_grad():
                sides = batch.sides(self._token_terms(batch, hidden, reference, kl=()), {})
            inputs = replace(inputs, logratio=torch.cat([side.logratio for side in sides]))
        if "entropy" in self.masks.reads:
            entropy = token_entropy(reference.hidden, self._reference_head())
            inputs = replace(inputs, entropy=batch.to_grid(entropy))
        return dict(zip(("m_u", "m_d"), self.masks(inputs), strict=True))

    def _pair_output(self, batch: PairBatch, terms: TokenTerms, weights: Mapping[str, Tensor]) -> PairOutput:
        """The loss of these terms; `weights` are the grids m_u and m_d, before they are divided by their means."""
        penalty = terms.logps.new_zeros(batch.num_pairs)
        if self.masks is not None:  # before the loss: the order decides how gradients of a common mask are rounded
            penalty = self.masks.penalty(*weights.values(), batch.responses.valid)
            penalty = penalty[: batch.num_pairs] + penalty[batch.num_pairs :]
        if batch.mask_means is not None:
            weights = {name: divide_by_mean(grid, batch.mask_means[name]) for name, grid in weights.items()}
        chosen, rejected = batch.sides(terms, weights)
        pair = self._loss(chosen, rejected, **{**self._hyper, **batch.loss_kwargs})
        if batch.pair_weights is not None:
            pair, penalty = replace(pair, loss=batch.pair_weights * pair.loss), batch.pair_weights * penalty
        total = (pair.loss + penalty).sum()
        return PairOutput(pair, chosen.detach(), rejected.detach(), penalty, total)  # FSDP: no view with a gradient

    def _pair_output_with_gradients(
        self, batch: PairBatch, hidden: Tensor, reference: ReferenceOutputs, weights: Mapping[str, Tensor]
    ) -> PairOutput:
        """The same, with gradients computed now, by groups of whole pairs; all but `total` is without gradient."""
        groups = group_pairs(batch.pair_ends, rows_per_group(lm_head(self.policy).weight))
        parts = {rows.start: batch.select(rows, pairs) for rows, pairs in groups}

        def group_loss(rows: slice, terms: TokenTerms, group_weights: Sequence[Tensor]) -> Tensor:
            part = parts[rows.start]
            grids = [part.responses.to_grid(weight) for weight in group_weights]
            return self._pair_output(part, terms, dict(zip(weights, grids, strict=True))).total

        token_weights = [batch.responses.from_grid(grid) for grid in weights.values()]
        loss = SummedLoss(group_loss, [rows for rows, _ in groups], token_weights)
        terms = self._token_terms(batch, hidden, reference, self._kl, loss)
        with torch.no_grad():
            output = self._pair_output(batch, terms, weights)
        return output._replace(total=terms.total)

    @torch.no_grad()
    def _logratios(self, batch: PairBatch) -> tuple[Tensor, Tensor]:
        reference = self._reference_outputs(batch, masks=None)
        hidden = batch.responses.select_hidden(hidden_states(self.policy, batch.inputs))
        sides = batch.sides(self._token_terms(batch, hidden, reference, kl=()), {})
        chosen, rejected = (weighted_sum(side.logratio, None, side.valid) for side in sides)
        return chosen, rejected

    @torch.no_grad()
    def _mask_sums(self, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        reference = self._reference_outputs(batch, self.masks)
        hidden = None
        if "logratio" in self.masks.reads:
            hidden = batch.responses.select_hidden(hidden_states(self.policy, batch.inputs))
        sums, count = token_sums(self._mask_weights(batch, hidden, reference), batch)
        return sums["m_u"], sums["m_d"], count

    def calibrate(self, batches: Iterable[PairBatch]) -> None:
        """Initialise learned mask heads on the tokens of these batches."""
        if self.masks is not None and self.masks.has_parameters:
            with torch.no_grad():
                self.masks.calibrate(run_reference(self.reference, self.masks, batch).mask_inputs for batch in batches)


@torch.no_grad()
def token_sums(weights: Mapping[str, Tensor], batch: PairBatch) -> tuple[dict[str, Tensor], Tensor]:
    """The sum of each grid of weights over the response tokens of a batch, and how many these are."""
    valid = batch.responses.valid
    return {name: grid.where(valid, 0.0).sum() for name, grid in weights.items()}, valid.sum()


def divide_by_mean(weights: Tensor, mean: Tensor | float) -> Tensor:
    """Weights whose mean over a step is `mean`, a constant for the gradient, divided by it; 0 where all are 0."""
    mean = torch.as_tensor(mean, dtype=weights.dtype, device=weights.device)
    return weights / mean.where(mean != 0, 1.0)


def group_pairs(pair_ends: Sequence[int], min_rows: int) -> list[tuple[slice, range]]:
    """Rows and pairs of groups that hold whole pairs and, except for the last, at least `min_rows` rows."""
    groups, row, first = [], 0, 0
    for pair, end in enumerate(pair_ends):
        if end - row >= min_rows or pair == len(pair_ends) - 1:
            groups.append((slice(row, end), range(first, pair + 1)))
            row, first = end, pair + 1
    return groups


def stored_outputs(batch: PairBatch) -> ReferenceOutputs:
    """Those that were stored before and are in the batch."""
    weights, values = batch.to_grid(batch.ref_weights), batch.to_grid(batch.values)
    inputs = MaskInputs(batch.responses.valid, batch.to_grid(batch.labels), weights=weights, values=values)
    return ReferenceOutputs(batch.ref_states, inputs)


@torch.no_grad()
def response_states(reference: Any, batch: PairBatch, on_layer: LayerCallback | None = None) -> Tensor:
    """The last hidden states (n, d) of the response tokens; `on_layer` is called with theirs of each layer."""
    index = batch.responses

    def on_response_layer(layer: int, num_layers: int, states: Tensor) -> None:
        on_layer(layer, num_layers, index.select_hidden(states))

    return index.select_hidden(hidden_states(reference, batch.inputs, on_response_layer if on_layer else None))


def run_reference(
    reference: Any, masks: Masks | None, batch: PairBatch, states: Callable[..., Tensor] = response_states
) -> ReferenceOutputs:
    """Run the reference without gradient; the projections of learned heads keep theirs.

    Learned heads project the states of each layer as soon as they are computed, so no layer is stored for them.
    states: gives what `response_states` does; heads that read activations need a pass of their own. Raises UserError
    for an architecture without the activations that a head reads.
    """
    index = batch.responses
    heads = [] if masks is None else [head for head in masks.heads.values() if head.reads == "activations"]
    projections: dict[str, list[Tensor]] = {}
    grad_enabled = torch.is_grad_enabled()

    def project_layer(layer: int, num_layers: int, states: Tensor) -> None:
        with torch.set_grad_enabled(grad_enabled):
            for name, projection in masks.project(layer, num_layers, states).items():
                projections.setdefault(name, []).append(projection)

    on_layer = project_layer if masks is not None and "hidden_states" in masks.reads else None
    with torch.no_grad(), ExitStack() as stack:
        records = [stack.enter_context(record_activations(reference, head.reading, head.sites)) for head in heads[:1]]
        hidden = (response_states if heads else states)(reference, batch, on_layer)
    activations = records[0].by_site(batch.inputs.input_ids.shape) if records else {}
    mask_inputs = MaskInputs(
        index.valid,
        batch.to_grid(batch.labels),
        projections={name: index.to_grid(torch.cat(layers, -1)) for name, layers in projections.items()},
        activations={
            site: [index.to_grid(index.select_hidden(value)) for value in values]
            for site, values in activations.items()
        },
        values=batch.to_grid(batch.values),
    )
    return ReferenceOutputs(hidden, mask_inputs)
